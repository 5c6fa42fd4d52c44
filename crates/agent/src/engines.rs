//! The container engines of a node, and the ways from their containers to the node.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_container::{Engine, EngineError, Subnet, connect, usual_address};
use plimsoll_model::id::{InstallationId, Uid};
use plimsoll_model::kind::EngineAddress;
use plimsoll_registry::Logins;
use plimsoll_shim::{read, tool, write_durably};

/// The file beside an App's volumes that says which engines have others of it.
const ENGINES: &str = "engines.json";

/// How long what was set up is taken to be there still: other tools change networks and flush rules.
const TRUSTED: Duration = Duration::from_secs(10);

/// Engines that are in use, by address.
pub(crate) struct Engines {
    installation: InstallationId,
    volumes: PathBuf,
    known: Mutex<BTreeMap<EngineAddress, Engine>>,
    ways: Mutex<BTreeMap<Subnet, Instant>>,
    pub(crate) logins: Logins,
}

impl Engines {
    pub(crate) fn new(installation: &InstallationId, volumes: &Path) -> Self {
        Self {
            installation: installation.clone(),
            volumes: volumes.to_owned(),
            known: Mutex::default(),
            ways: Mutex::default(),
            logins: Logins::of_this_user(),
        }
    }

    /// The engine at an address, or the usual one.
    pub(crate) fn get(&self, address: Option<&EngineAddress>) -> Result<Engine, EngineError> {
        let address = match address {
            Some(address) => address.clone(),
            None => usual_address()?,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = known.get(&address) {
            return Ok(engine.clone());
        }
        let engine = connect(&address, &self.installation)?;
        known.insert(address, engine.clone());
        Ok(engine)
    }

    fn record(&self, app: &Uid) -> PathBuf {
        self.volumes.join(app.as_str())
    }

    /// Writes down that an engine is about to have volumes of an App.
    pub(crate) fn note_volumes(&self, app: &Uid, engine: &EngineAddress) -> io::Result<()> {
        let directory = self.record(app);
        let mut engines = self.with_volumes(app)?;
        if !engines.contains(engine) {
            engines.push(engine.clone());
            crate::place::passable_directory(&directory)?;
            write_durably(&directory, ENGINES, &engines)?;
        }
        Ok(())
    }

    /// The engines that may have volumes of an App.
    fn with_volumes(&self, app: &Uid) -> io::Result<Vec<EngineAddress>> {
        Ok(read(&self.record(app), ENGINES)?.unwrap_or_default())
    }

    /// Removes an App's volumes from all engines.
    pub(crate) async fn remove_volumes(&self, app: &Uid) -> Result<(), EngineError> {
        for address in self.with_volumes(app)? {
            self.get(Some(&address))?.remove_volumes(app).await?;
        }
        Ok(())
    }

    /// Sees to it that containers of a network reach stable addresses, and no containers of other networks. Without
    /// the right to do so nothing is done.
    pub(crate) fn lead(&self, subnet: Subnet) -> io::Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if ways.get(&subnet).is_some_and(|at| at.elapsed() < TRUSTED) {
            return Ok(());
        }
        // The rules first: nobody else may come in once the addresses are there.
        tool(&["nft", "-f", "-"], &rules(subnet))?;
        tool(&["ip", "route", "replace", "local", "240.64.0.0/10", "dev", "lo"], "")?;
        ways.insert(subnet, Instant::now());
        Ok(())
    }

    /// Puts back what others took away.
    pub(crate) fn keep_up(&self) -> io::Result<()> {
        let subnets: Vec<Subnet> =
            self.ways.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        subnets.into_iter().try_for_each(|subnet| self.lead(subnet))
    }

    /// Forgets a network that is gone.
    pub(crate) fn forget(&self, subnet: Subnet) {
        if self.ways.lock().unwrap_or_else(PoisonError::into_inner).remove(&subnet).is_some() {
            tool(&["nft", "delete", "table", "ip", &subnet.table()], "").ok();
        }
    }
}

/// What may pass. The addresses of services, 240.64.0.0/10 for containers, are this machine's own for its containers
/// only; and containers meet none of another network, nor the node's processes.
fn rules(subnet: Subnet) -> String {
    let (table, all) = (subnet.table(), Subnet::ALL);
    format!(
        "table ip plimsoll
delete table ip plimsoll
table ip plimsoll {{
  chain in {{
    type filter hook input priority filter
    ip daddr 240.64.0.0/10 iifname != \"lo\" ip saddr != {all} drop
  }}
}}
table ip {table}
delete table ip {table}
table ip {table} {{
  chain between {{
    type filter hook forward priority filter
    ip saddr {subnet} ip daddr {all} ip daddr != {subnet} drop
    ip saddr {subnet} ip daddr 10.209.0.0/16 ct state new drop
    ip saddr 10.209.0.0/16 ip daddr {subnet} ct state new drop
  }}
}}
"
    )
}
