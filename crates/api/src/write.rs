//! Writing and deleting objects of any kind.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use plimsoll_manifest::{Document, DocumentKind};
use plimsoll_model::access::Verb;
use plimsoll_model::audit::Action;
use plimsoll_model::fields::{fields, merge};
use plimsoll_model::kind::Tombstone;
use plimsoll_model::{App, Kind as _, ObjectKey, Project, Secret, Token};
use plimsoll_server::{AccessError, ApplyError, By, Caller, Change, Server, Terms};
use plimsoll_store::{KindName, Row, Scope};
use serde_json::{Value, json};

use crate::kinds::{Origin, Resource};
use crate::objects::{OnePath, etag};
use crate::problem::{Problem, Sort};
use crate::request::{Asked, At, Body, DeleteQuery, WriteQuery, json as from_json};
use crate::wire::{API_VERSION, sent};

/// What of an object's metadata is made here.
const MADE: [&str; 7] = [
    "uid",
    "owner",
    "creationTimestamp",
    "deletionTimestamp",
    "resourceVersion",
    "generation",
    "managedFields",
];

/// An object that somebody writes: where, and on which terms.
struct Place<'a> {
    server: &'a Server,
    caller: &'a Caller,
    resource: Resource,
    key: ObjectKey,
}

pub(crate) async fn put(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(path): At<OnePath>,
    Asked(query): Asked<WriteQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (resource, key) = path.resolve()?;
    let place = Place { server: &server, caller: &caller, resource, key };
    place.put(document(&headers, &body)?, query.terms(&headers)?).await
}

pub(crate) async fn patch(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(path): At<OnePath>,
    Asked(query): Asked<WriteQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    let (resource, key) = path.resolve()?;
    let place = Place { server: &server, caller: &caller, resource, key };
    if media_type(&headers) == APPLY {
        return place.apply(&applied(&body)?, &query, query.terms(&headers)?).await;
    }
    place.patch(&Patch::read(&headers, &body)?, &query.terms(&headers)?).await
}

pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    At(path): At<OnePath>,
    Asked(DeleteQuery { dry_run, abandon }): Asked<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (resource, key) = path.resolve()?;
    let terms = WriteQuery { dry_run, ..WriteQuery::default() }.terms(&headers)?;
    let place = Place { server: &server, caller: &caller, resource, key };
    if abandon { place.abandon(&terms).await } else { place.delete(&terms).await }
}

/// The part before parameters of a request's content type.
fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

/// A part of a document, whose fields belong to whoever applies it. JSON is YAML too.
const APPLY: &str = "application/apply-patch+yaml";

/// The part of a document that somebody applies.
fn applied(body: &[u8]) -> Result<Value, Problem> {
    let part: Value = yaml_serde::from_slice(body)
        .map_err(|error| Problem::refused(vec![json!({"message": error.to_string(), "pointer": ""})]))?;
    if part.is_object() && is_reasonable(&part, DEEPEST, &mut { LARGEST_DOCUMENT }) {
        return Ok(part);
    }
    Err(Problem::refused(vec![json!({"message": "write an object of a reasonable size", "pointer": ""})]))
}

/// A document in JSON or, if the client says so, YAML.
fn document(headers: &HeaderMap, body: &[u8]) -> Result<Value, Problem> {
    match media_type(headers) {
        "" | "application/json" => from_json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml_serde::from_slice(body)
            .map_err(|error| Problem::refused(vec![json!({"message": error.to_string(), "pointer": ""})])),
        other => {
            Err(Problem::new(Sort::MediaType, format!("{other} is not application/json or application/yaml")))
        }
    }
}

/// Fields of a part that is applied at most.
const MOST_FIELDS: usize = 5000;

/// Operations of a JSON patch at most.
const MOST_OPERATIONS: usize = 256;

/// Bytes of a patched document at most, roughly.
const LARGEST_DOCUMENT: usize = plimsoll_manifest::LARGEST_FILE;

/// Levels of a patched document at most.
const DEEPEST: usize = 64;

/// Times a patch is tried when somebody else writes the same object.
const ATTEMPTS: u32 = 20;

/// A change of an object.
enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
}

impl Patch {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Problem> {
        match media_type(headers) {
            "application/merge-patch+json" => from_json(body).map(Self::Merge),
            "application/json-patch+json" => from_json(body).map(Self::Json),
            other => Err(Problem::new(
                Sort::MediaType,
                format!(
                    "{other:?} is not application/merge-patch+json, application/json-patch+json or {APPLY}"
                ),
            )),
        }
    }

    /// Changes a document, which stays of a reasonable size: a few operations could double it again and again.
    fn apply(&self, document: &mut Value) -> Result<(), Problem> {
        let operations = match self {
            Self::Merge(patch) => {
                json_patch::merge(document, patch);
                return Ok(());
            }
            Self::Json(operations) if operations.0.len() > MOST_OPERATIONS => {
                let message = format!("{} operations are more than {MOST_OPERATIONS}", operations.0.len());
                return Err(Problem::refused(vec![json!({"message": message, "pointer": ""})]));
            }
            Self::Json(operations) => &operations.0,
        };
        for (number, operation) in operations.iter().enumerate() {
            let refused = |message: String| {
                Err(Problem::refused(vec![json!({"message": message, "pointer": format!("/{number}")})]))
            };
            if let Err(error) = json_patch::patch(document, std::slice::from_ref(operation)) {
                return refused(error.to_string());
            }
            if !is_reasonable(document, DEEPEST, &mut { LARGEST_DOCUMENT }) {
                return refused("the document would become too large or too deep".into());
            }
        }
        Ok(())
    }
}

/// Whether a document has at most so many levels, and is not larger than the room that is left.
fn is_reasonable(value: &Value, levels: usize, room: &mut usize) -> bool {
    let own = match value {
        Value::String(text) => text.len(),
        Value::Object(map) => map.keys().map(String::len).sum(),
        _ => 0,
    };
    let Some(left) = room.checked_sub(own + 8) else { return false };
    *room = left;
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_reasonable(item, levels - 1, room)),
        Value::Object(map) => levels > 0 && map.values().all(|item| is_reasonable(item, levels - 1, room)),
        _ => true,
    }
}

impl Place<'_> {
    fn kind(&self) -> KindName {
        KindName(self.resource.plural)
    }

    /// Only what people declare can be written here.
    fn declared(&self) -> Result<DocumentKind, Problem> {
        let Origin::Declared(kind) = self.resource.origin else {
            let detail = format!("{} are not declared: the system makes them", self.resource.plural);
            return Err(Problem::new(Sort::MethodNotAllowed, detail));
        };
        Ok(kind)
    }

    /// Refuses whoever may not, before anything of the object is said.
    async fn permit(&self, action: Action, terms: &Terms) -> Result<(), Problem> {
        let Err(error) = self.check().await else { return Ok(()) };
        let error = ApplyError::Access(error);
        if !terms.dry_run {
            self.server.note_refusal(self.caller, action, self.resource.plural, &self.key, &error).await;
        }
        Err(error.into())
    }

    async fn check(&self) -> Result<(), AccessError> {
        let (store, caller) = (self.server.store(), self.caller);
        match (&self.key.project, self.resource.plural) {
            (Some(project), _) => caller.within(store, project, Verb::Write).await.map(drop),
            (None, Project::PLURAL) if !caller.is_platform() => match self.key.name.as_str().parse() {
                Ok(name) => caller.within(store, &name, Verb::Manage).await.map(drop),
                Err(_) => caller.platform("make a project"),
            },
            (None, _) => caller.platform("change what belongs to the installation"),
        }
    }

    async fn row(&self) -> Result<Option<Row>, Problem> {
        Ok(self.server.store().row(&Scope::All, self.kind(), &self.key).await?)
    }

    async fn put(&self, mut document: Value, mut terms: Terms) -> Result<Response, Problem> {
        let kind = self.declared()?;
        self.permit(Action::Change, &terms).await?;
        if terms.at.is_none()
            && let Some(version) = document["metadata"]["resourceVersion"].as_str()
        {
            terms.at = Some(crate::request::revision(version)?);
        }
        self.settle(kind, &mut document)?;
        self.write(&document, &terms).await
    }

    async fn patch(&self, patch: &Patch, terms: &Terms) -> Result<Response, Problem> {
        let kind = self.declared()?;
        self.permit(Action::Change, terms).await?;
        if terms.absent {
            return Err(Problem::bad("If-None-Match: * and a patch contradict each other"));
        }
        if let (Patch::Json(_), Secret::PLURAL) = (patch, self.resource.plural) {
            // Its operations could carry a value to where it is read.
            let detail = "a Secret is changed with application/merge-patch+json only";
            return Err(Problem::new(Sort::MediaType, detail));
        }
        let missing = || Problem::not_found(format!("{} {}", self.resource.kind.to_lowercase(), self.key));
        let make = |row: Option<&Row>| {
            let mut document = self.as_declared(row.ok_or_else(missing)?)?;
            patch.apply(&mut document)?;
            self.settle(kind, &mut document)?;
            Ok(document)
        };
        self.rewrite(terms, make).await
    }

    /// Server-side apply: sets the fields of a part, which are the manager's from then on.
    async fn apply(&self, part: &Value, query: &WriteQuery, mut terms: Terms) -> Result<Response, Problem> {
        let kind = self.declared()?;
        let Some(manager) = query.field_manager.clone() else {
            return Err(Problem::bad("say whose the fields are: fieldManager=NAME"));
        };
        self.permit(Action::Change, &terms).await?;
        let mut part = part.clone();
        self.settle(kind, &mut part)?;
        if let Some(data) = part.as_object_mut().and_then(|part| part.remove("data")) {
            part["spec"]["data"] = data;
        }
        let declared = fields(&part);
        if declared.len() > MOST_FIELDS {
            let message = format!("it has more than {MOST_FIELDS} fields: put it as a whole");
            return Err(Problem::refused(vec![json!({"message": message, "pointer": ""})]));
        }
        terms.by = By::Applied { manager: manager.clone(), fields: declared, force: query.force };
        let make = |row: Option<&Row>| {
            let Some(row) = row else { return Ok(part.clone()) };
            let mut live = self.as_declared(row)?;
            self.settle(kind, &mut live)?;
            Ok(merge(&live, &part, &manager, &row.meta.attached.managers))
        };
        self.rewrite(&terms, make).await
    }

    /// Writes what is made of an object as it is; again, some times, when somebody else was first.
    async fn rewrite(
        &self,
        terms: &Terms,
        make: impl Fn(Option<&Row>) -> Result<Value, Problem> + Send,
    ) -> Result<Response, Problem> {
        let mut attempt = 1;
        loop {
            let row = self.row().await?;
            let document = make(row.as_ref())?;
            let mut now = terms.clone();
            match &row {
                Some(row) => now.at = now.at.or(Some(row.meta.revision)),
                // Stale rather than absent: then it is tried again, as a change.
                None => now.absent |= now.at.is_none(),
            }
            match self.write(&document, &now).await {
                Err(Problem { sort: Sort::Stale, .. })
                    if terms.at.is_none() && !terms.absent && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// The object as somebody would have declared it.
    fn as_declared(&self, row: &Row) -> Result<Value, Problem> {
        let mut document = sent(&self.resource, row)?;
        if self.resource.plural == Secret::PLURAL {
            document["spec"]["data"] = self.server.reveal(row).map_err(Problem::from)?;
        }
        Ok(document)
    }

    /// Takes away what the system says of an object, and refuses what speaks of another one.
    fn settle(&self, kind: DocumentKind, document: &mut Value) -> Result<(), Problem> {
        let wrong = |pointer: &str, found: &Value, wanted: &str| {
            let message = format!("{found} is not {wanted:?}, which the path names");
            Problem::refused(vec![json!({"message": message, "pointer": pointer})])
        };
        let Some(object) = document.as_object_mut() else {
            return Err(Problem::refused(vec![json!({"message": "write an object", "pointer": ""})]));
        };
        object.remove("status");
        if kind != DocumentKind::App {
            object.remove("operations");
        }
        object.entry("apiVersion").or_insert(json!(API_VERSION));
        let found = object.entry("kind").or_insert(json!(self.resource.kind));
        if found != self.resource.kind {
            return Err(wrong("/kind", found, self.resource.kind));
        }
        let metadata = object.entry("metadata").or_insert(json!({}));
        let Some(metadata) = metadata.as_object_mut() else {
            return Err(Problem::refused(vec![
                json!({"message": "write an object", "pointer": "/metadata"}),
            ]));
        };
        for made in MADE {
            metadata.remove(made);
        }
        let name = metadata.entry("name").or_insert(json!(self.key.name));
        if name != self.key.name.as_str() {
            return Err(wrong("/metadata/name", name, self.key.name.as_str()));
        }
        match &self.key.project {
            Some(project) => {
                metadata.remove("namespace");
                let found = metadata.entry("project").or_insert(json!(project));
                if found != project.as_str() {
                    return Err(wrong("/metadata/project", found, project.as_str()));
                }
            }
            None => drop(metadata.remove("project")),
        }
        Ok(())
    }

    /// Checks and writes a document, and answers with what is there then.
    async fn write(&self, document: &Value, terms: &Terms) -> Result<Response, Problem> {
        let documents = parsed(&serde_json::to_vec(document).map_err(Problem::bad)?)?;
        let project = self.key.project.clone().unwrap_or_else(|| "default".parse().expect("a valid name"));
        let applied = plimsoll_server::apply(self.server, self.caller, &documents, &project, terms).await;
        let is_new = applied?.iter().any(|it| it.change == Change::Created);
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        if terms.dry_run {
            let mut shown = document.clone();
            if let Some(shown) = shown.as_object_mut() {
                shown.entry("spec").or_insert(json!({}));
            }
            if self.resource.plural == Secret::PLURAL
                && let Some(data) = shown["spec"]["data"].as_object_mut()
            {
                data.values_mut().for_each(|value| *value = Value::Null);
            }
            return Ok((status, Json(shown)).into_response());
        }
        let row = self.row().await?;
        let row = row
            .ok_or_else(|| Problem::new(Sort::Conflict, "it was written, and somebody deleted it at once"))?;
        let tag = etag(row.meta.revision);
        Ok((status, [(header::ETAG, tag)], Json(sent(&self.resource, &row)?)).into_response())
    }

    async fn delete(&self, terms: &Terms) -> Result<Response, Problem> {
        if self.resource.plural == Token::PLURAL {
            let is_revoked = self.server.revoke_token(self.caller, &self.key.name, terms).await?;
            return if is_revoked {
                Ok(Json(json!({"deleted": self.key.to_string()})).into_response())
            } else {
                Err(Problem::not_found(format!("token {}", self.key)))
            };
        }
        if self.resource.plural == Tombstone::PLURAL {
            self.permit(Action::Delete, terms).await?;
            self.server.forget(self.caller, &self.key, terms).await?;
            return Ok(Json(json!({"deleted": self.key.to_string()})).into_response());
        }
        self.declared()?;
        self.permit(Action::Delete, terms).await?;
        self.server.delete(self.caller, self.resource.plural, &self.key, terms).await?;
        Ok(Json(json!({"deleted": self.key.to_string()})).into_response())
    }

    /// Deletes an App though something of it does not answer.
    async fn abandon(&self, terms: &Terms) -> Result<Response, Problem> {
        if self.resource.plural != App::PLURAL {
            return Err(Problem::bad("only Apps can be given up: leave out abandon"));
        }
        self.permit(Action::Abandon, terms).await?;
        let left = self.server.abandon(self.caller, &self.key, terms).await?;
        Ok(Json(json!({"deleted": self.key.to_string(), "left": left})).into_response())
    }
}

/// The documents of a text, or everything that is wrong with them.
pub(crate) fn parsed(text: &[u8]) -> Result<Vec<Document>, Problem> {
    let documents = plimsoll_manifest::parse("request", text).map_err(|errors| {
        Problem::refused(errors.iter().filter_map(|error| serde_json::to_value(error).ok()).collect())
    })?;
    let mut missing = Vec::new();
    for document in &documents {
        if let Document::App(app) = document {
            let violations = plimsoll_manifest::require_digests(&app.spec);
            missing.extend(violations.iter().map(|it| json!({"message": it.to_string()})));
        }
    }
    if missing.is_empty() { Ok(documents) } else { Err(Problem::refused(missing)) }
}
