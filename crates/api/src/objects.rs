//! Reading objects of any kind.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use plimsoll_model::access::Verb;
use plimsoll_model::id::{ObjectName, ProjectName};
use plimsoll_model::object::KindScope;
use plimsoll_model::{Kind as _, ObjectKey, Project, Revision, Target, Token};
use plimsoll_server::{Caller, Server};
use plimsoll_store::{Query, Scope};
use serde::Deserialize;
use serde_json::Value;

use crate::kinds::Resource;
use crate::limit::Limits;
use crate::listen::Ending;
use crate::problem::Problem;
use crate::request::{Asked, At};
use crate::select::Selector;
use crate::wire::{API_VERSION, page, sent};
use crate::{derived, watch};

/// Objects of a page unless fewer are asked for, and at most.
const LARGEST_PAGE: usize = 500;

/// Rows read at once at least.
const SMALLEST_READ: usize = 100;

/// What a list is asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    r#continue: Option<String>,
    label_selector: Option<String>,
    field_selector: Option<String>,
    watch: Option<bool>,
    pub(crate) resource_version: Option<String>,
}

/// A collection as somebody sees it.
pub(crate) struct View {
    pub(crate) resource: Resource,
    /// The project that was asked for, if one was.
    project: Option<ProjectName>,
    pub(crate) scope: Scope,
    pub(crate) selector: Selector,
    /// For collections of the installation: the names that are seen; all of them if there is no set.
    pub(crate) names: Option<Vec<ObjectName>>,
}

fn resource(plural: &str) -> Result<Resource, Problem> {
    Resource::named(plural).ok_or_else(|| {
        let known: Vec<&str> = Resource::ALL.iter().map(|it| it.plural).collect();
        Problem::not_found(format!("collection {plural}; there are {}", known.join(", ")))
    })
}

/// The collection that a path names, where it belongs there.
fn resource_in(plural: &str, scope: KindScope) -> Result<Resource, Problem> {
    let resource = resource(plural)?;
    if resource.scope == scope {
        return Ok(resource);
    }
    let place = match scope {
        KindScope::Project => {
            format!("they belong to the installation: ask for /apis/{API_VERSION}/{plural}")
        }
        KindScope::Installation => {
            format!("they belong to projects: ask for /apis/{API_VERSION}/projects/PROJECT/{plural}")
        }
    };
    Err(Problem::not_found(format!("collection {plural} here; {place}")))
}

impl View {
    /// A collection of one project.
    pub(crate) async fn of_project(
        server: &Server,
        caller: &Caller,
        project: &ProjectName,
        plural: &str,
        selector: Selector,
    ) -> Result<Self, Problem> {
        let scope = caller.within(server.store(), project, Verb::Read).await?;
        let resource = resource_in(plural, KindScope::Project)?;
        Ok(Self { resource, project: Some(project.clone()), scope, selector, names: None })
    }

    /// A collection of the installation, or of all projects that the caller sees.
    pub(crate) async fn of_all(
        server: &Server,
        caller: &Caller,
        plural: &str,
        selector: Selector,
    ) -> Result<Self, Problem> {
        let resource = resource(plural)?;
        if resource.scope == KindScope::Project {
            let scope = caller.everywhere(server.store()).await?;
            return Ok(Self { resource, project: None, scope, selector, names: None });
        }
        let names = match plural {
            _ if caller.is_platform() => None,
            Target::PLURAL => None,
            Token::PLURAL => {
                Some(server.tokens(caller).await?.into_iter().map(|token| token.meta.key.name).collect())
            }
            Project::PLURAL => match caller.everywhere(server.store()).await? {
                Scope::All => None,
                Scope::Projects(seen) => {
                    Some(seen.iter().filter_map(|it| it.as_str().parse().ok()).collect())
                }
            },
            // Nothing of what the system records of the whole installation.
            _ => Some(Vec::new()),
        };
        Ok(Self { resource, project: None, scope: Scope::All, selector, names })
    }

    /// Whether a key is seen.
    pub(crate) fn admits(&self, key: &ObjectKey) -> bool {
        self.scope.admits(key) && self.names.as_ref().is_none_or(|names| names.contains(&key.name))
    }

    /// One page, the version that it is of, and how to ask for the next one.
    pub(crate) async fn page(
        &self,
        server: &Server,
        limit: usize,
        after: Option<ObjectKey>,
    ) -> Result<(Vec<Value>, u64, Option<ObjectKey>), Problem> {
        let Some(kind) = self.resource.rows() else {
            let version = server.store().position().0;
            return Ok((derived::all(server, self).await?, version, None));
        };
        let mut items = Vec::new();
        // A selector may leave little of what is read.
        let mut query = Query { limit: limit.max(SMALLEST_READ), after, ..Query::default() };
        let mut version = None;
        loop {
            let found = server.store().rows(&self.scope, kind, &query).await?;
            // A watch that begins with the first page's version misses nothing of the later ones.
            let version = *version.get_or_insert(found.token.0);
            let mut left = found.rows.len();
            for row in found.rows {
                left -= 1;
                if self.admits(&row.meta.key) {
                    let item = sent(&self.resource, &row)?;
                    if self.selector.admits(&item) {
                        items.push(item);
                    }
                }
                query.after = Some(row.meta.key);
                if items.len() == limit {
                    let is_more = left > 0 || found.more;
                    return Ok((items, version, query.after.filter(|_| is_more)));
                }
            }
            if !found.more {
                return Ok((items, version, None));
            }
        }
    }

    /// The same collection as somebody else sees it, or the same caller later.
    pub(crate) async fn again(&self, server: &Server, caller: &Caller) -> Result<Self, Problem> {
        let (plural, selector) = (self.resource.plural, self.selector.clone());
        match &self.project {
            Some(project) => Self::of_project(server, caller, project, plural, selector).await,
            None => Self::of_all(server, caller, plural, selector).await,
        }
    }

    /// Whether the same is seen in both.
    pub(crate) fn sees_as(&self, other: &Self) -> bool {
        self.scope == other.scope && self.names == other.names
    }
}

/// A place in a list, for clients to send back.
fn continuation(key: &ObjectKey) -> String {
    Base64UrlUnpadded::encode_string(&serde_json::to_vec(key).unwrap_or_default())
}

fn continued(text: &str) -> Result<ObjectKey, Problem> {
    let bytes = Base64UrlUnpadded::decode_vec(text).ok();
    let key = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    key.ok_or_else(|| Problem::bad("continue is not one that a list gave"))
}

async fn answer(
    server: Arc<Server>,
    caller: Caller,
    view: View,
    query: ListQuery,
    streams: (Limits, Ending),
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    if watch::is_wanted(query.watch, headers) {
        let from = watch::start(&query, headers)?;
        return watch::stream(server, caller, view, from, streams, headers).await;
    }
    let limit = match query.limit {
        None | Some(0) => LARGEST_PAGE,
        Some(limit) => limit.min(LARGEST_PAGE),
    };
    let after = query.r#continue.as_deref().map(continued).transpose()?;
    let (items, version, next) = view.page(&server, limit, after).await?;
    Ok(Json(page(&view.resource, &items, version, next.as_ref().map(continuation).as_deref()))
        .into_response())
}

fn selector(query: &ListQuery) -> Result<Selector, Problem> {
    Selector::parse(query.label_selector.as_deref(), query.field_selector.as_deref())
}

pub(crate) async fn list_all(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(plural): At<String>,
    Asked(query): Asked<ListQuery>,
    (Extension(limits), Extension(ending)): (Extension<Limits>, Extension<Ending>),
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = View::of_all(&server, &caller, &plural, selector(&query)?).await?;
    answer(server, caller, view, query, (limits, ending), &headers).await
}

/// A fixed path of its own, because tokens are made by it too.
pub(crate) async fn list_tokens(
    server: State<Arc<Server>>,
    caller: Extension<Caller>,
    query: Asked<ListQuery>,
    streams: (Extension<Limits>, Extension<Ending>),
    headers: HeaderMap,
) -> Result<Response, Problem> {
    list_all(server, caller, At(Token::PLURAL.to_owned()), query, streams, headers).await
}

pub(crate) async fn list(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At((project, plural)): At<(ProjectName, String)>,
    Asked(query): Asked<ListQuery>,
    (Extension(limits), Extension(ending)): (Extension<Limits>, Extension<Ending>),
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = View::of_project(&server, &caller, &project, &plural, selector(&query)?).await?;
    answer(server, caller, view, query, (limits, ending), &headers).await
}

/// The names in the path of one object, of a project or of the installation.
#[derive(Deserialize)]
pub(crate) struct OnePath {
    project: Option<ProjectName>,
    plural: String,
    name: ObjectName,
}

impl OnePath {
    /// The collection and the object, where they belong together.
    pub(crate) fn resolve(self) -> Result<(Resource, ObjectKey), Problem> {
        let scope = if self.project.is_some() { KindScope::Project } else { KindScope::Installation };
        let resource = resource_in(&self.plural, scope)?;
        Ok((resource, ObjectKey { project: self.project, name: self.name }))
    }
}

pub(crate) async fn get(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(path): At<OnePath>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (resource, key) = path.resolve()?;
    let view = match &key.project {
        Some(project) => {
            View::of_project(&server, &caller, project, resource.plural, Selector::default()).await?
        }
        None => View::of_all(&server, &caller, resource.plural, Selector::default()).await?,
    };
    one(&server, &view, &key, &headers).await
}

async fn one(
    server: &Server,
    view: &View,
    key: &ObjectKey,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("{} {key}", view.resource.kind.to_lowercase()));
    let Some(kind) = view.resource.rows() else {
        let all = derived::all(server, view).await?;
        let found = all.into_iter().find(|it| it["metadata"]["name"] == key.name.as_str());
        return Ok(Json(found.ok_or_else(missing)?).into_response());
    };
    let row = server.store().row(&view.scope, kind, key).await?;
    let row = row.filter(|row| view.admits(&row.meta.key)).ok_or_else(missing)?;
    let tag = etag(row.meta.revision);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|wanted| wanted == tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(([(header::ETAG, tag)], Json(sent(&view.resource, &row)?)).into_response())
}

pub(crate) fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}
