//! Who makes certificates here: an authority of the installation's own, one that the server is set up with, and the router that
//! serves them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_certificate::{Acme, Method, OwnAuthority, Pair};
use plimsoll_driver::DriverError;
use plimsoll_engine::{Clock, Fut};
use plimsoll_model::kind::{CertificateOrigin, HeldCertificate};
use plimsoll_model::secret::Sensitive;
use plimsoll_model::words::in_words;
use plimsoll_reconcile::{Certifier, Uncertified};
use plimsoll_router::RouterDriver;

use crate::Settings;

/// Where the account of the authority is kept, in the data directory.
const ACCOUNT: &str = "acme.json";

/// The sources of certificates of one installation.
pub(crate) struct Sources {
    router: RouterDriver,
    clock: Arc<dyn Clock>,
    /// Where the own authority's files are.
    directory: PathBuf,
    acme: Option<Acme>,
}

fn later(why: String) -> Uncertified {
    Uncertified { why, needs_person: false }
}

/// Whether a name means this machine, wherever it is asked for (RFC 6761).
fn is_of_this_machine(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

impl Sources {
    pub(crate) fn new(settings: &Settings, data: &Path, router: RouterDriver, clock: Arc<dyn Clock>) -> Self {
        let acme = settings.acme.clone().map(|acme| Acme::new(acme, data.join(ACCOUNT)));
        Self { router, clock, directory: data.to_owned(), acme }
    }

    /// Has a host served with a pair that is right for it, unless it is.
    async fn serve(
        &self,
        host: &str,
        held: Option<&HeldCertificate>,
        pair: Pair,
        origin: CertificateOrigin,
    ) -> Result<HeldCertificate, Uncertified> {
        let new = pair.check(host, origin, self.clock.now()).map_err(|error| Uncertified {
            why: in_words(&error),
            needs_person: origin == CertificateOrigin::Secret,
        })?;
        if held == Some(&new) {
            return Ok(new);
        }
        let certified = self.router.certify(host, Some((new.clone(), pair))).await;
        certified.map(|()| new).map_err(|error| later(error.to_string()))
    }

    /// Orders one. One of both ways is often not open to the world: the first attempt finds out which one is, later ones take
    /// turns, since the authority counts what fails.
    async fn ordered(&self, acme: &Acme, host: &str, failures: u32) -> Result<Pair, Uncertified> {
        let ways: &[Method] = match failures {
            0 => &[Method::Http01, Method::TlsAlpn01],
            odd if odd % 2 == 1 => &[Method::Http01],
            _ => &[Method::TlsAlpn01],
        };
        let mut said: Vec<String> = Vec::new();
        for way in ways {
            match acme.obtain(host, *way, &self.router).await {
                Ok(pair) => return Ok(pair),
                Err(error) => said.push(in_words(&error)),
            }
        }
        said.dedup();
        Err(later(said.join("; and then: ")))
    }
}

impl Certifier for Sources {
    fn held(&self) -> Fut<'_, Result<BTreeMap<String, HeldCertificate>, Uncertified>> {
        Box::pin(async {
            let held = self.router.certificates().await;
            held.map_err(|error| match error {
                // One of an earlier version does not know what is asked of it.
                DriverError::Terminal(_) => Uncertified {
                    why: "the router that runs is of an earlier version: end it, it comes back at once"
                        .into(),
                    needs_person: true,
                },
                error => later(error.to_string()),
            })
        })
    }

    fn origin(&self, host: &str) -> CertificateOrigin {
        if is_of_this_machine(host) { CertificateOrigin::Own } else { CertificateOrigin::Authority }
    }

    fn obtain<'a>(&'a self, host: &'a str, failures: u32) -> Fut<'a, Result<HeldCertificate, Uncertified>> {
        Box::pin(async move {
            let origin = self.origin(host);
            if origin == CertificateOrigin::Own {
                let now = self.clock.now();
                let made =
                    OwnAuthority::load_or_make(&self.directory, now).and_then(|it| it.issue(host, now));
                let pair = made.map_err(|error| later(in_words(&error)))?;
                return self.serve(host, None, pair, origin).await;
            }
            let Some(acme) = &self.acme else {
                let why = "the server is set up with no authority (--acme-directory), and no Secret is named";
                return Err(Uncertified { why: why.to_owned(), needs_person: true });
            };
            let pair = self.ordered(acme, host, failures).await?;
            self.serve(host, None, pair, origin).await
        })
    }

    fn install<'a>(
        &'a self,
        host: &'a str,
        held: Option<&'a HeldCertificate>,
        chain: String,
        key: Sensitive<String>,
    ) -> Fut<'a, Result<HeldCertificate, Uncertified>> {
        Box::pin(self.serve(host, held, Pair { chain, key }, CertificateOrigin::Secret))
    }

    fn forget<'a>(&'a self, host: &'a str) -> Fut<'a, Result<(), String>> {
        Box::pin(async move { self.router.certify(host, None).await.map_err(|error| error.to_string()) })
    }
}
