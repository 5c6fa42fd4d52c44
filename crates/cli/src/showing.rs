//! `plimsoll get --watch`: what is there, and then each change once, whatever ends in between.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use plimsoll_api::Resource;
use serde_json::Value;

use crate::client::Client;
use crate::follow::talk;
use crate::get::Get;
use crate::news::Lines;
use crate::table::text;

/// Pause before a watch that ended is begun again.
const AGAIN: Duration = Duration::from_secs(1);

/// Project and name.
type Key = (String, String);

/// What has been shown.
pub(crate) struct Showing<'a> {
    get: &'a Get,
    resource: &'a Resource,
    name: Option<&'a str>,
    /// How wide columns are, where it is a table.
    widths: Option<Vec<usize>>,
    /// The version of each object that is on the screen.
    shown: BTreeMap<Key, Option<String>>,
}

fn key(item: &Value) -> Key {
    (text(&item["metadata"]["project"]).to_owned(), text(&item["metadata"]["name"]).to_owned())
}

fn version(item: &Value) -> Option<String> {
    item["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

impl<'a> Showing<'a> {
    /// Shows objects, and then each that changes, until somebody interrupts it.
    pub(crate) fn follow(
        get: &'a Get,
        mut client: Client,
        resource: &'a Resource,
        name: Option<&'a str>,
    ) -> anyhow::Result<()> {
        let (items, mut from) = get.existing(&client, resource, name)?;
        let widths = get.table(resource, &items)?.map(|table| table.widths());
        get.print(resource, name, &items)?;
        let shown = items.iter().map(|item| (key(item), version(item))).collect();
        let mut showing = Self { get, resource, name, widths, shown };
        let project = get.project(resource);
        loop {
            let query = get.query();
            let mut lines = Lines::new(|line: &[u8]| showing.event(line));
            // Whatever ends it: the server is being started again, or does not keep the changes since any more.
            client.watch(project.as_ref(), resource.plural, &query, Some(&from), &mut lines).ok();
            let items;
            (client, (items, from)) = showing.once_again()?;
            showing.all(items)?;
        }
    }

    /// Shows what a line of a watch tells.
    fn event(&mut self, line: &[u8]) -> io::Result<()> {
        let mut event: Value = serde_json::from_slice(line)?;
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => self.show(&mut event["object"]).map_err(io::Error::other),
            Some("DELETED") => {
                self.gone(&key(&event["object"]));
                Ok(())
            }
            // It is begun again with what is there then.
            Some("ERROR") => Err(io::ErrorKind::Interrupted.into()),
            _ => Ok(()),
        }
    }

    /// Shows everything that is news among what is there, and what is not there any more.
    fn all(&mut self, mut items: Vec<Value>) -> anyhow::Result<()> {
        let there: Vec<Key> = items.iter().map(key).collect();
        let gone: Vec<Key> = self.shown.keys().filter(|it| !there.contains(it)).cloned().collect();
        for key in &gone {
            self.gone(key);
        }
        items.iter_mut().try_for_each(|item| self.show(item))
    }

    #[expect(clippy::print_stdout, reason = "the objects are this command's data")]
    fn show(&mut self, item: &mut Value) -> anyhow::Result<()> {
        let (key, now) = (key(item), version(item));
        let is_other = self.name.is_some_and(|name| key.1 != name);
        if is_other || self.shown.get(&key) == Some(&now) {
            return Ok(());
        }
        self.shown.insert(key, now);
        self.get.tidy(item);
        let item = std::slice::from_ref(item);
        match &self.widths {
            Some(widths) => {
                let table = self.get.table(self.resource, item)?;
                print!("{}", table.map(|it| it.rows(widths)).unwrap_or_default());
                Ok(())
            }
            None => self.get.print(self.resource, Some(""), item),
        }
    }

    /// Says that something is gone, if it was shown.
    fn gone(&mut self, key: &Key) {
        if self.shown.remove(key).is_some() {
            talk(&format!("{} {} was deleted", self.resource.kind.to_lowercase(), key.1));
        }
    }

    /// A new connection, to wherever the control plane is by now, and what is there.
    fn once_again(&self) -> anyhow::Result<(Client, (Vec<Value>, String))> {
        let mut was_told = false;
        loop {
            std::thread::park_timeout(AGAIN);
            let found = self.get.client().and_then(|client| {
                let items = self.get.items(&client, self.resource, self.name)?;
                Ok((client, items))
            });
            match found {
                Err(error) if !was_told => {
                    talk(&format!("{error:#}; trying again"));
                    was_told = true;
                }
                Err(_) => {}
                found => return found,
            }
        }
    }
}
