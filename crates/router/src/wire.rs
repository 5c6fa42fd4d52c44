//! What control plane and router say to each other: one line of JSON each way, over a unix socket.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_driver::{DriverError, Refusal};
use plimsoll_model::ObjectKey;
use plimsoll_model::id::Uid;
use plimsoll_model::kind::HeldCertificate;
use plimsoll_model::step::{Fence, Step};
use plimsoll_model::world::RouterView;
use serde::{Deserialize, Serialize};

use crate::certificates::{Kept, Shown};

/// The socket's name in the router's directory.
pub(crate) const SOCKET: &str = "control.sock";

/// The longest line in bytes.
pub(crate) const LONGEST: usize = 16 << 20;

/// What is asked of a router.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    Observe(Uid),
    Execute {
        step: Box<Step>,
        fence: Fence,
    },
    /// Where routes are served.
    Address,
    /// Where those are served that are encrypted.
    TlsAddress,
    /// Which certificates there are.
    Certificates,
    /// Serve a host with another certificate, or with none.
    Certify {
        host: String,
        certificate: Option<Box<Kept>>,
    },
    /// Show an authority that we answer for a host, or do so no longer.
    Show {
        host: String,
        proof: Option<Shown>,
    },
    /// Which Apps are asked for that may be asleep; the answer comes once there is one, or after a while.
    Woken {
        heard: u64,
    },
    /// End, if nothing is published.
    End,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    View(RouterView),
    Done,
    Address(std::net::SocketAddr),
    Certificates(BTreeMap<String, HeldCertificate>),
    Woken { heard: u64, apps: BTreeSet<ObjectKey> },
    Failed(Failure),
}

/// [`DriverError`] as it is sent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Failure {
    Transient(String),
    Terminal(String),
    Refused(Refusal),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError::Transient(text) => Self::Transient(text),
            DriverError::Terminal(text) => Self::Terminal(text),
            DriverError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<Failure> for DriverError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Transient(text) => Self::Transient(text),
            Failure::Terminal(text) => Self::Terminal(text),
            Failure::Refused(refusal) => Self::Refused(refusal),
        }
    }
}
