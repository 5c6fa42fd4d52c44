//! How commands name an object.

use std::convert::Infallible;
use std::str::FromStr;

use plimsoll_model::id::ProjectName;
use plimsoll_model::{App, Kind};

/// `KIND/NAME`, or the `NAME` of an App. Kinds may be said in the singular.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct What {
    /// The collection.
    pub(crate) plural: String,
    /// The object in it.
    pub(crate) name: String,
}

/// The collection that a person means by a word.
pub(crate) fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    if kind.ends_with('s') { kind } else { kind + "s" }
}

/// The project in which a collection is looked at; none for collections of the installation.
pub(crate) fn project_of<'a>(plural: &str, project: &'a ProjectName) -> Option<&'a ProjectName> {
    (!matches!(plural, "projects" | "targets" | "claims")).then_some(project)
}

impl FromStr for What {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((kind, name)) => Self { plural: plural(kind), name: name.to_owned() },
            None => Self { plural: App::PLURAL.to_owned(), name: text.to_owned() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_need_no_kind_and_kinds_no_plural() {
        let what = |text: &str| text.parse::<What>().map(|it| (it.plural, it.name)).unwrap();
        assert_eq!(what("shop"), ("apps".into(), "shop".into()));
        assert_eq!(what("app/shop"), what("Apps/shop"));
        assert_eq!(what("instance/web-0-1"), ("instances".into(), "web-0-1".into()));
    }
}
