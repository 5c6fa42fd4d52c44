//! Files made to harm: none makes the parser panic, and none takes it long.

use std::fmt::Write as _;

use plimsoll_manifest::{LARGEST_FILE, parse};
use proptest::prelude::*;

fn told(text: &str) -> String {
    parse("f", text.as_bytes()).expect_err("the text is hostile").to_string()
}

#[test]
fn laughs_do_not_unfold() {
    let mut text = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        writeln!(text, "a{n}: &a{n} [{aliases}]").unwrap();
    }
    assert!(
        told(&text).contains("the file holds more than 50000 values, aliases counted"),
        "{}",
        told(&text)
    );
}

#[test]
fn a_long_text_does_not_unfold_either() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), vec!["*a"; 20_000].join(","));
    assert!(told(&text).contains("the file holds more than 4 MiB of text"), "{}", told(&text));
}

#[test]
fn depth_has_an_end() {
    for text in ["[".repeat(100_000), format!("{}1{}", "[".repeat(200), "]".repeat(200)), "- ".repeat(5000)] {
        let told = told(&text);
        assert!(told.contains("more than 64 deep") || told.contains("recursion limit"), "{told}");
    }
    let mut text = "a0: &a0 [1]\n".to_owned();
    for n in 1..80 {
        writeln!(text, "a{n}: &a{n} [*a{}]", n - 1).unwrap();
    }
    assert!(told(&text).contains("aliases nest lists and mappings more than 64 deep"));
}

#[test]
fn documents_have_an_end() {
    let document = "---\napiVersion: plimsoll.dev/v1\nkind: Project\nmetadata: {name: a}\n";
    assert_eq!(parse("f", document.repeat(200).as_bytes()).unwrap().len(), 200);
    assert!(
        told(&document.repeat(201)).contains("f:802:1: the file holds more than 200 documents"),
        "{}",
        told(&document.repeat(201))
    );
}

#[test]
fn a_long_chain_of_components_is_refused_before_it_is_followed() {
    let mut text =
        "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a}\nspec:\n  components:\n".to_owned();
    for n in 0..4000 {
        writeln!(text, "    c{n}: {{consumes: {{a: {{interface: i, from: c{}/e}}}}}}", n + 1).unwrap();
    }
    assert!(
        told(&text).starts_with("f:5:3: spec.components: there are 4000 entries; 200 are allowed"),
        "{}",
        told(&text)
    );
}

#[test]
fn every_map_has_a_largest_size() {
    let entries =
        |count: u32, entry: &str| (0..count).map(|n| format!("n{n}: {entry}")).collect::<Vec<_>>().join(", ");
    for (field, most, entry) in [
        ("ports", 64, "80"),
        ("env", 500, "x"),
        ("files", 200, "{content: x}"),
        ("volumes", 16, "{path: x}"),
        ("provides", 32, "{interface: i}"),
        ("consumes", 32, "{interface: i, from: b/c}"),
    ] {
        let entries = entries(most + 1, entry);
        let text = format!(
            "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {{name: a}}\nspec:\n  components:\n    w:\n      \
             command: [x]\n      {field}: {{{entries}}}\n"
        );
        let told = told(&text);
        let expected =
            format!("spec.components.w.{field}: there are {} entries; {most} are allowed", most + 1);
        assert!(told.contains(&expected), "{field}: {told}");
    }
}

#[test]
fn full_files_of_nonsense_are_refused() {
    let head = "apiVersion: plimsoll.dev/v1\nkind: App\nmetadata: {name: a}\nspec: {components: {web: {";
    let fill = |unit: &str| unit.repeat((LARGEST_FILE - 200) / unit.len());
    let keys = (0..20_000).map(|n| format!("wrong{n}: 1, ")).collect::<Vec<_>>().concat();
    for text in [
        fill("---\n"),
        fill("--- [\n"),
        fill("{}\n"),
        format!("{}{{", fill("{}")),
        fill("[],"),
        fill("\u{0}"),
        fill("? "),
        fill("&a "),
        fill("!!x "),
        fill("a:\n "),
        format!("{{{}: 1}}", fill("x")),
        format!("{head}{keys}}}}}}}"),
        format!("{head}env: {{{keys}}}}}}}}}"),
    ] {
        // A full file that is nothing but good and empty documents does not exist among these.
        assert!(parse("f", text.as_bytes()).is_err(), "{}", &text[..40]);
    }
}

/// Words that make a text look like a manifest.
const WORDS: [&str; 44] = [
    "apiVersion: plimsoll.dev/v1\n",
    "kind: App\n",
    "kind: Secret\n",
    "metadata: {name: a}\n",
    "spec:\n",
    "  components:\n",
    "    web:\n",
    "      command: [run]\n",
    "      ports: {http: 80}\n",
    "      env: {A: 1}\n",
    "      replicas: ",
    "data:\n",
    "  KEY: x\n",
    "---\n",
    "...\n",
    "- ",
    "? ",
    ": ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "!x ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "\\",
    "\\ud83d",
    "\t",
    "  ",
    "\n",
    "#",
    "%YAML 1.2\n",
    "<<",
    "0x1",
    "1e999",
    "~",
    "ä",
    "\u{feff}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse("f", &bytes).is_ok();
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n\tä€😀]{0,120}") {
        let _ = parse("f", text.as_bytes()).is_ok();
    }

    #[test]
    fn no_near_manifest_makes_it_panic(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..30)) {
        let text = words.concat();
        if let Err(errors) = parse("f", text.as_bytes()) {
            prop_assert!(errors.iter().count() > 0);
            for error in &errors {
                prop_assert!(error.line >= 1 && error.column >= 1);
                prop_assert!(error.line <= text.lines().count() + 1, "{} of {:?}", error, text);
            }
        }
    }
}
