//! The collections of the API, in one table: routes, lists, help and the document of the API are read off it.

use plimsoll_manifest::DocumentKind;
use plimsoll_model::kind::{
    AppRevisions, Build, Certificate, Claim, Image, Plans, Rejection, Tombstone, Usage,
};
use plimsoll_model::object::KindScope;
use plimsoll_model::{App, Kind, Project, Secret, Target, Token};
use plimsoll_store::KindName;

use crate::derived::{EVENTS, INSTANCES};

/// A collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Its name in paths.
    pub plural: &'static str,
    /// The kind of its objects.
    pub kind: &'static str,
    /// Shorter names for commands.
    pub short: &'static [&'static str],
    /// Whether it belongs to a project.
    pub scope: KindScope,
    /// Where its objects come from.
    pub origin: Origin,
}

/// Where the objects of a collection come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// People declare them.
    Declared(DocumentKind),
    /// People ask for them, and the system makes them.
    Made,
    /// The system keeps them until what they tell of is over, or an administrator says that it is.
    Left,
    /// The system records them.
    Recorded,
    /// They are read off other objects.
    Derived,
}

impl Origin {
    /// Whether somebody may delete such objects.
    pub fn is_deletable(&self) -> bool {
        matches!(self, Self::Declared(_) | Self::Made | Self::Left)
    }
}

impl Resource {
    const fn of<K: Kind>(short: &'static [&'static str], origin: Origin) -> Self {
        Self { plural: K::PLURAL, kind: K::NAME, short, scope: K::SCOPE, origin }
    }

    /// Every collection, those that people use most first.
    pub const ALL: [Self; 16] = [
        Self::of::<App>(&["app"], Origin::Declared(DocumentKind::App)),
        Self {
            plural: INSTANCES,
            kind: "Instance",
            short: &["instance", "inst"],
            scope: KindScope::Project,
            origin: Origin::Derived,
        },
        Self {
            plural: EVENTS,
            kind: "Event",
            short: &["event", "ev"],
            scope: KindScope::Project,
            origin: Origin::Derived,
        },
        Self::of::<Secret>(&["secret"], Origin::Declared(DocumentKind::Secret)),
        Self::of::<AppRevisions>(&["revision", "rev"], Origin::Recorded),
        Self::of::<Plans>(&["plan"], Origin::Recorded),
        Self::of::<Rejection>(&["rejection", "rej"], Origin::Recorded),
        Self::of::<Image>(&["image"], Origin::Recorded),
        Self::of::<Build>(&["build"], Origin::Recorded),
        Self::of::<Tombstone>(&["tombstone"], Origin::Left),
        Self::of::<Project>(&["project", "proj"], Origin::Declared(DocumentKind::Project)),
        Self::of::<Target>(&["target"], Origin::Declared(DocumentKind::Target)),
        Self::of::<Token>(&["token"], Origin::Made),
        Self::of::<Certificate>(&["certificate", "cert"], Origin::Recorded),
        Self::of::<Claim>(&["claim"], Origin::Recorded),
        Self::of::<Usage>(&["usage"], Origin::Recorded),
    ];

    /// The collection that a path names.
    pub fn named(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.plural == plural)
    }

    /// The collection that a person means: its name, its kind or a shorter name, in any case.
    pub fn meant(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        Self::ALL.into_iter().find(|it| {
            it.plural == word || it.kind.to_lowercase() == word || it.short.contains(&word.as_str())
        })
    }

    /// Its rows, if it has any.
    pub(crate) fn rows(&self) -> Option<KindName> {
        (self.origin != Origin::Derived).then_some(KindName(self.plural))
    }
}
