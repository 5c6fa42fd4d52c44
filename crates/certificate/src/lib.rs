//! Certificates of hosts: what they say of themselves, own ones, and those of an ACME authority.
//!
//! A [`Pair`] is a chain and its key, checked for a host before anybody uses it. [`OwnAuthority`] makes them for names that
//! mean this machine; [`Acme`] gets them from an authority by RFC 8555, which asks a [`Prover`] to show that we answer for the host:
//! over HTTP (http-01) or within TLS (tls-alpn-01, RFC 8737).
//!
//! Deliberately absent: when a certificate is wanted or renewed, and who serves it.

mod acme;
mod own;
mod pair;

pub use acme::{Acme, AcmeError, Method, Proof, Prover, Settings};
pub use own::{MakeError, OwnAuthority};
pub use pair::{Pair, PairError};
