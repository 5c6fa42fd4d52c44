//! Which findings of validation are in doubt, because a part of the spec that they build on is left out.
//!
//! A spec with errors is checked without its broken nodes. What then seems missing may only be broken, and
//! one slip must not look like three.

use crate::tree::Path;

/// The sections of a component that the checks of a section look at, beside itself.
const LOOKS_AT: [(&str, &[&str]); 7] = [
    ("command", &["program"]),
    ("env", &["ports", "consumes"]),
    ("files", &["ports", "consumes"]),
    ("health", &["ports"]),
    ("program", &["command"]),
    ("provides", &["ports", "consumes"]),
    ("routes", &["ports", "consumes"]),
];

/// Whether a violation may only be there because of what was left out. Paths begin at the spec.
pub(crate) fn is_in_doubt(violation: &[String], left_out: &[Path]) -> bool {
    // What spans components, a circle of relations, is found in spite of what is missing.
    let spans = violation.len() < 2;
    left_out.iter().any(|gone| (!spans && related(violation, gone)) || looks_at(violation, gone))
}

/// One is above the other, or both are the same.
pub(crate) fn related(a: &[String], b: &[String]) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

fn looks_at(violation: &[String], gone: &[String]) -> bool {
    let part = |path: &[String], index: usize| path.get(index).cloned().unwrap_or_default();
    let (section, gone_section) = (part(violation, 2), part(gone, 2));
    // The only check that crosses components: what one consumes, another provides.
    if section == "consumes" {
        return gone.len() <= 2 || gone_section == "provides";
    }
    // Volumes decide the defaults of updates.
    if section == "update" && gone_section == "volumes" {
        return part(violation, 1) == part(gone, 1);
    }
    part(violation, 1) == part(gone, 1)
        && LOOKS_AT.iter().any(|(name, others)| *name == section && others.contains(&gone_section.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn consequences_are_told_from_causes() {
        let doubt = |violation, gone| is_in_doubt(&path(violation), &[path(gone)]);
        assert!(doubt("components.web", "components.web.comand"));
        assert!(doubt("components.web.health.http.port", "components.web.ports.http"));
        assert!(doubt("components.web.consumes.db.from", "components.db.provides.sql"));
        assert!(doubt("components.web.consumes.db.from", "components.Db"));
        assert!(doubt("components.web.update.surge", "components.web.volumes"));
        assert!(!doubt("components.web.health.http.port", "components.db.ports.http"));
        assert!(!doubt("components", "components.web.replicas"));
        assert!(!doubt("components.web.ports.http", "components.web.replicas"));
        assert!(!doubt("components.web.consumes.db.from", "components.db.replicas"));
    }
}
