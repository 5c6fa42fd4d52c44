//! The rule that only the server has: what is stored names its content by digest.

use plimsoll_model::AppSpec;
use plimsoll_model::validate::Violation;

/// Programs and sources that name what lies beside the manifest without the digest of its uploaded content. The server cannot
/// see the author's disk; the command that can is part of the message.
pub fn require_digests(spec: &AppSpec) -> Vec<Violation> {
    let bare = |(name, component): (&plimsoll_model::id::ComponentName, &plimsoll_model::Component)| {
        let program = component.program.as_ref().filter(|program| program.digest.is_none())?;
        let (field, path) = match (&program.file, &program.directory) {
            (Some(path), _) => ("file", path),
            (None, Some(path)) => ("directory", path),
            (None, None) => return None,
        };
        Some(violation([name.as_str(), "program", field], path))
    };
    let unsent = |(name, component): (&plimsoll_model::id::ComponentName, &plimsoll_model::Component)| {
        let source = component.source.as_ref().filter(|source| source.digest.is_none())?;
        let (field, path) = source.uploaded()?;
        Some(violation([name.as_str(), "source", field], path))
    };
    let (bare, unsent) = (spec.components.iter().filter_map(bare), spec.components.iter().filter_map(unsent));
    bare.chain(unsent).collect()
}

fn violation([component, part, field]: [&str; 3], path: &str) -> Violation {
    Violation {
        path: ["components", component, part, field].map(str::to_owned).into(),
        message: format!("the content of `{path}` is not uploaded: there is no `digest` beside it"),
        suggestion: Some("run `plimsoll apply -f FILE`, which uploads it and fills in the digest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_files_and_directories_need_an_upload() {
        let digest = "a".repeat(64);
        let spec: AppSpec = serde_json::from_value(serde_json::json!({"components": {
            "bare": {"program": {"file": "web.py", "runtime": "python"}},
            "tree": {"program": {"directory": "app", "entry": "main.py", "runtime": "python"}},
            "sent": {"program": {"file": "web.py", "runtime": "python", "digest": digest}},
            "text": {"program": {"inline": "x", "runtime": "python"}},
            "none": {"command": ["sleep"]},
            "site": {"source": {"path": "site"}},
            "repo": {"source": {"git": "https://example.org/a.git"}},
        }}))
        .unwrap();
        let found: Vec<String> = require_digests(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "components.bare.program.file: the content of `web.py` is not uploaded: there is no `digest` beside it",
                "components.tree.program.directory: the content of `app` is not uploaded: there is no `digest` beside it",
                "components.site.source.path: the content of `site` is not uploaded: there is no `digest` beside it",
            ]
        );
        assert!(require_digests(&spec)[0].suggestion.as_ref().unwrap().contains("plimsoll apply -f FILE"));
    }
}
