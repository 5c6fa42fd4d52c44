//! A server whose nodes have nothing to do.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use plimsoll_driver::fake::{FakeNode, FakeRouter, Script};
use plimsoll_driver::{Driver, DriverError, Fut, Marked, SecretValues, Sighting};
use plimsoll_model::id::{InstallationId, TargetName, Uid};
use plimsoll_model::quantity::Span;
use plimsoll_model::step::{Fence, Scope, Step};
use plimsoll_server::{Drivers, Server, Settings};

/// A node for each App, so that none is slower for the others.
struct Idle {
    target: TargetName,
    installation: InstallationId,
    nodes: Mutex<HashMap<Uid, FakeNode>>,
}

impl Idle {
    fn node(&self, app: &Uid) -> FakeNode {
        let mut nodes = self.nodes.lock().unwrap();
        let make = || FakeNode::new(self.target.clone(), self.installation.clone(), Script::default());
        nodes.entry(app.clone()).or_insert_with(make).clone()
    }
}

impl Driver for Idle {
    fn scope(&self) -> Scope {
        Scope::Node(self.target.clone())
    }

    fn observe<'a>(&'a self, app: &'a Uid) -> Fut<'a, Result<Sighting, DriverError>> {
        Box::pin(async move { self.node(app).observe(app).await })
    }

    fn inventory(&self) -> Fut<'_, Result<Vec<Marked>, DriverError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn execute<'a>(
        &'a self,
        step: &'a Step,
        fence: &'a Fence,
        secrets: &'a SecretValues,
    ) -> Fut<'a, Result<(), DriverError>> {
        Box::pin(async move {
            let node = self.node(&fence.app);
            let done = node.execute(step, fence, secrets).await;
            // Its time passes with what it is told: programs are ready at once, and end at once.
            node.advance(Span::seconds(1));
            done
        })
    }
}

/// Serves a data directory until it is killed.
pub(crate) fn serve(data: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let target: TargetName = "local".parse().unwrap();
        // The identity is made by the first start, and fences carry it.
        let text = std::fs::read_to_string(data.join("installation.json")).unwrap_or_default();
        let known: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let installation: InstallationId = known["installation"].as_str().unwrap_or("i-0").parse().unwrap();
        let nodes = Mutex::default();
        let node = Idle { target: target.clone(), installation: installation.clone(), nodes };
        let router = FakeRouter::new(target, installation);
        let settings = Settings {
            data: data.to_owned(),
            program: "/nowhere".into(),
            routes: plimsoll_server::Ports::default(),
            acme: None,
            store: None,
            key_file: None,
            drivers: Some(Drivers::new().with(node).with(router)),
        };
        let server = Arc::new(Server::start(settings).await.unwrap());
        let listen = plimsoll_api::Listen { rate: 0, ..plimsoll_api::Listen::default() };
        let (_, serving) = plimsoll_api::serve(server, listen).await.unwrap();
        serving.run().await;
    });
}
