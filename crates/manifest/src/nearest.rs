//! Did you mean …? And other things that make a message readable.

/// The known name that a wrong one was most likely meant to be.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody means a long text as a name, and the distance costs the product of both lengths.
    if wrong.len() > 64 {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let tolerated = (wrong.chars().count() / 3).clamp(1, 4);
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_lowercase());
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, name)| *distance <= tolerated && *distance < name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The suggestion for a wrong name: the nearest one, or the list of all.
pub(crate) fn suggest(wrong: &str, what: &str, known: &[&str]) -> Option<String> {
    match nearest(wrong, known.iter().copied()) {
        Some(name) => Some(format!("did you mean `{name}`?")),
        None if known.is_empty() => None,
        None => Some(format!("{what}: {}", known.join(", "))),
    }
}

/// A text for a message: cut, and without control characters that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// The nearest valid label to a wrong one: `My_App` becomes `my-app`.
pub(crate) fn as_label(text: &str) -> Option<String> {
    let label: String = text
        .to_lowercase()
        .chars()
        .take(63)
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let label = label.trim_matches('-');
    (label.bytes().any(|b| b != b'-')).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["replicas", "resources", "routes", "env"];
        assert_eq!(nearest("replica", known), Some("replicas"));
        assert_eq!(nearest("Replicas", known), Some("replicas"));
        assert_eq!(nearest("evn", known), Some("env"));
        assert_eq!(nearest("image", known), None);
        assert_eq!(suggest("image", "known fields", &known[2..]).unwrap(), "known fields: routes, env");
    }

    #[test]
    fn nothing_a_terminal_obeys_is_printed() {
        assert_eq!(printable("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(printable(&"x".repeat(100)).chars().count(), 61);
    }

    #[test]
    fn labels_are_made_from_names() {
        assert_eq!(as_label("My_App").as_deref(), Some("my-app"));
        assert_eq!(as_label("___"), None);
    }
}
