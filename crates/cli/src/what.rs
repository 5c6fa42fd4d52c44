//! How commands name an object.

use std::str::FromStr;

use plimsoll_api::Resource;
use plimsoll_model::id::ProjectName;
use plimsoll_model::object::KindScope;
use plimsoll_model::{App, Kind as _};

/// `KIND/NAME`, or the `NAME` of an App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct What {
    /// The collection.
    pub(crate) resource: Resource,
    /// The object in it.
    pub(crate) name: String,
}

/// The collection that a person means by a word.
pub(crate) fn resource(word: &str) -> anyhow::Result<Resource> {
    let known: Vec<&str> = Resource::ALL.iter().map(|it| it.plural).collect();
    Resource::meant(word).ok_or_else(|| {
        let nearest = known.iter().max_by(|a, b| likeness(word, a).total_cmp(&likeness(word, b)));
        let hint = nearest.filter(|it| likeness(word, it) > 0.75).map(|it| format!(" Did you mean {it}?"));
        anyhow::anyhow!(
            "there is no kind {word:?}.{} There are {}",
            hint.unwrap_or_default(),
            known.join(", ")
        )
    })
}

fn likeness(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(&a.to_lowercase(), b)
}

/// The project in which a collection is looked at; none for collections of the installation.
pub(crate) fn project_of<'a>(resource: &Resource, project: &'a ProjectName) -> Option<&'a ProjectName> {
    (resource.scope == KindScope::Project).then_some(project)
}

impl FromStr for What {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((kind, name)) => Ok(Self { resource: resource(kind)?, name: name.to_owned() }),
            None => Ok(Self { resource: resource(App::PLURAL)?, name: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_need_no_kind_and_kinds_no_plural() {
        let what = |text: &str| text.parse::<What>().map(|it| (it.resource.plural, it.name)).unwrap();
        assert_eq!(what("shop"), ("apps", "shop".into()));
        assert_eq!(what("app/shop"), what("Apps/shop"));
        assert_eq!(what("instance/web-0-1"), ("instances", "web-0-1".into()));
        assert!("instnaces/x".parse::<What>().unwrap_err().to_string().contains("Did you mean instances?"));
    }
}
