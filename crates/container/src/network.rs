//! A network of an engine for each project.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::InspectNetworkOptions;
use plimsoll_model::id::{Digest, ProjectName};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, INSTALLATION};
use crate::error::EngineError;

/// How long a network that was seen is taken to be there still.
const TRUSTED: Duration = Duration::from_secs(5);

/// Bits of a subnet that are the network's.
const PREFIX: u8 = 23;

/// A network of one project's containers: one of 256 in 10.210.0.0/15, beside those of the node's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subnet(u8);

impl Subnet {
    /// All of them together.
    pub const ALL: &str = "10.210.0.0/15";

    /// The subnet of an address.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        let [10, second @ 210..=211, third, _] = address.octets() else { return None };
        Some(Self((second - 210) << 7 | third >> 1))
    }

    /// An address in it, from 0 to 511; 1 is the node itself.
    fn host(self, host: u16) -> Ipv4Addr {
        let number = u16::from(self.0);
        let second = if number >= 128 { 211 } else { 210 };
        let [high, low] = ((number % 128) * 512 + host).to_be_bytes();
        Ipv4Addr::new(10, second, high, low)
    }

    /// The name of its rules on the node.
    pub fn table(self) -> String {
        format!("plimc{}", self.0)
    }

    /// The addresses that containers may have.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        (2..511).map(move |host| self.host(host))
    }
}

/// In the notation of networks.
impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX}", self.host(0))
    }
}

impl Engine {
    /// The name of a project's network.
    pub fn network_name(&self, project: &ProjectName) -> String {
        let installation = Digest::of_bytes(self.inner.installation.as_str().as_bytes()).short();
        format!("plimsoll-{project}-{}", &installation[..6])
    }

    /// Makes a project's network, if it is not there, and says what its addresses are. One that is made anew gets
    /// the addresses that containers of it already have.
    ///
    /// # Errors
    /// When the engine does not do it, or no subnet is free.
    pub async fn network(
        &self,
        project: &ProjectName,
        before: Option<Subnet>,
    ) -> Result<Subnet, EngineError> {
        let name = self.network_name(project);
        let mut seen = self.inner.networks.lock().await;
        // Many copies start at once, and each wants to be sure of the same network.
        if let Some((subnet, _)) = seen.get(&name).filter(|(_, at)| at.elapsed() < TRUSTED) {
            return Ok(*subnet);
        }
        seen.remove(&name);
        let subnet = match self.subnet(&name).await? {
            Some(subnet) => subnet,
            None => self.choose_network(&name, project, before).await?,
        };
        seen.insert(name, (subnet, Instant::now()));
        Ok(subnet)
    }

    async fn choose_network(
        &self,
        name: &str,
        project: &ProjectName,
        before: Option<Subnet>,
    ) -> Result<Subnet, EngineError> {
        let first = Digest::of_json(&(&self.inner.installation, project, self.address())).to_string();
        let first = u8::from_str_radix(&first[..2], 16).unwrap_or_default();
        let choices = (0..=u8::MAX).map(|step| Subnet(first.wrapping_add(step)));
        let choices: Vec<Subnet> = match before {
            Some(before) => vec![before],
            None => choices.filter(|subnet| !is_used(*subnet)).collect(),
        };
        let mut last = EngineError::Refused(format!("all of {} is in use", Subnet::ALL));
        for subnet in choices {
            match self.make_network(name, subnet).await {
                Ok(()) => return Ok(subnet),
                // Somebody else has these addresses.
                Err(error @ (EngineError::Conflict(_) | EngineError::Refused(_))) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Has a project's network looked at anew before anybody relies on it.
    pub async fn distrust_network(&self, project: &ProjectName) {
        self.inner.networks.lock().await.remove(&self.network_name(project));
    }

    async fn make_network(&self, name: &str, subnet: Subnet) -> Result<(), EngineError> {
        let config = IpamConfig {
            subnet: Some(subnet.to_string()),
            gateway: Some(subnet.host(1).to_string()),
            ..IpamConfig::default()
        };
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
            labels: Some([(INSTALLATION.to_owned(), self.inner.installation.to_string())].into()),
            ..NetworkCreateRequest::default()
        };
        self.inner.docker.create_network(request).await?;
        Ok(())
    }

    async fn subnet(&self, name: &str) -> Result<Option<Subnet>, EngineError> {
        let found = self.inner.docker.inspect_network(name, None::<InspectNetworkOptions>).await;
        let found = match found.map_err(EngineError::from) {
            Ok(found) => found,
            Err(EngineError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if found.labels.and_then(|labels| labels.get(INSTALLATION).cloned()).as_deref()
            != Some(self.inner.installation.as_str())
        {
            return Err(EngineError::Refused(format!("network {name} is somebody else's")));
        }
        let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let subnets = configs.iter().filter_map(|config| config.subnet.as_ref()?.split('/').next());
        let subnet = subnets.filter_map(|first| first.parse().ok()).find_map(Subnet::of);
        subnet
            .map(Some)
            .ok_or_else(|| EngineError::Refused(format!("network {name} has other addresses than ours")))
    }

    /// Removes a project's network, if nothing is in it, and says which addresses are free then.
    pub async fn remove_network(&self, project: &ProjectName) -> Option<Subnet> {
        let name = self.network_name(project);
        let mut seen = self.inner.networks.lock().await;
        seen.remove(&name);
        let subnet = self.subnet(&name).await.ok()??;
        // One that is in use stays, and the next container of the project finds it.
        self.inner.docker.remove_network(&name).await.ok().map(|()| subnet)
    }
}

/// Whether an address or a route of this machine lies in it.
fn is_used(subnet: Subnet) -> bool {
    addresses_of_this_machine().into_iter().any(|address| Subnet::of(address) == Some(subnet))
}

/// Every address that this machine has or has a route to, with those of their networks.
pub fn addresses_of_this_machine() -> Vec<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let words = routes.split_whitespace().map(|word| word.split('/').next().unwrap_or(word));
    words.filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subnet_knows_its_addresses() {
        for number in 0..=u8::MAX {
            let subnet = Subnet(number);
            assert!(subnet.hosts().all(|address| Subnet::of(address) == Some(subnet)), "{subnet}");
        }
        assert_eq!(Subnet(255).to_string(), "10.211.254.0/23");
        assert_eq!(Subnet::of(Ipv4Addr::new(10, 209, 0, 1)), None);
    }
}
