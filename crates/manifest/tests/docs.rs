//! The examples of the documentation are good files.

#[test]
fn examples_are_good_files() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/manifest.md");
    let text = std::fs::read_to_string(path).unwrap();
    let examples: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2, "docs/manifest.md has examples");
    for example in examples {
        plimsoll_manifest::parse("docs/manifest.md", example.as_bytes())
            .unwrap_or_else(|errors| panic!("{errors}"));
    }
}
