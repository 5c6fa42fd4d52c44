//! Limits for each caller: how often somebody may ask, and how many answers without end they may have open.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use plimsoll_model::id::UserName;

use crate::problem::{Problem, Sort};

/// Seconds' worth of requests that may come at once.
const BURST: u32 = 2;

/// Callers that are remembered before those that have been silent are forgotten.
const MANY: usize = 10_000;

/// Logins from one address at once.
const LOGINS_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Refused deliveries of a hook that the audit log is told of in a minute.
const TOLD: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Whoever is limited: a user, or an address from which somebody unknown asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Asker {
    User(UserName),
    Unknown(Option<IpAddr>),
}

/// The limits, and what everybody has used of them. Clones share it.
#[derive(Clone)]
pub(crate) struct Limits {
    rate: Option<Arc<DefaultKeyedRateLimiter<Asker>>>,
    /// Logins cost the provider something too.
    logins: Option<Arc<DefaultKeyedRateLimiter<Option<IpAddr>>>>,
    /// Deliveries to hooks that are refused, and what of them the audit log is told.
    deliveries: Option<Arc<DefaultKeyedRateLimiter<Option<IpAddr>>>>,
    told: Arc<DefaultKeyedRateLimiter<UserName>>,
    streams: Arc<Mutex<BTreeMap<UserName, usize>>>,
    most_streams: usize,
}

impl Limits {
    /// So many requests in a second for each asker, none for no limit, and so many streams.
    pub(crate) fn new(rate: u32, most_streams: usize) -> Self {
        let quota = |rate| {
            Quota::per_second(rate)
                .allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST - 1)))
        };
        let rate = NonZeroU32::new(rate).map(|rate| Arc::new(RateLimiter::keyed(quota(rate))));
        let few = Quota::per_second(NonZeroU32::MIN).allow_burst(LOGINS_AT_ONCE);
        let logins = rate.as_ref().map(|_| Arc::new(RateLimiter::keyed(few)));
        let deliveries = rate.as_ref().map(|_| Arc::new(RateLimiter::keyed(few)));
        let told = Arc::new(RateLimiter::keyed(Quota::per_minute(TOLD)));
        Self { rate, logins, deliveries, told, streams: Arc::default(), most_streams }
    }

    /// Counts a delivery from an address that is refused: one a second, and some at once.
    pub(crate) fn refuse_delivery(&self, from: Option<IpAddr>) -> Result<(), Problem> {
        let refused = "too many deliveries of this address are refused: wait a few seconds";
        self.deliveries.as_ref().map_or(Ok(()), |deliveries| count(deliveries, &from, refused))
    }

    /// Whether the audit log is told of one more refusal of a hook: a few in each minute show what goes on.
    pub(crate) fn may_tell(&self, hook: &UserName) -> bool {
        count(&self.told, hook, "").is_ok()
    }

    /// Counts a login from an address: one a second, and some at once.
    pub(crate) fn log_in(&self, from: Option<IpAddr>) -> Result<(), Problem> {
        let refused = "too many logins from this address: wait a few seconds";
        self.logins.as_ref().map_or(Ok(()), |logins| count(logins, &from, refused))
    }

    /// Counts a request.
    pub(crate) fn ask(&self, asker: &Asker) -> Result<(), Problem> {
        let refused = "you ask too often: wait a second";
        self.rate.as_ref().map_or(Ok(()), |rate| count(rate, asker, refused))
    }

    /// Counts an answer without end for as long as the result is kept.
    pub(crate) fn stream(&self, user: &UserName) -> Result<Streaming, Problem> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let open = streams.entry(user.clone()).or_default();
        if *open >= self.most_streams {
            let detail = format!("you have {open} watches and the like open: end some");
            return Err(Problem::new(Sort::TooMany, detail));
        }
        *open += 1;
        Ok(Streaming { limits: self.clone(), user: user.clone() })
    }
}

/// Refuses an address that asks too often, whoever asks from there.
pub(crate) async fn each_address(
    State(limits): State<Limits>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match limits.ask(&Asker::Unknown(Some(from.ip()))) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Counts one more of a key, and forgets those that have not come for long.
fn count<K: Clone + Hash + Eq>(
    limiter: &DefaultKeyedRateLimiter<K>,
    key: &K,
    refused: &'static str,
) -> Result<(), Problem> {
    if limiter.len() > MANY {
        limiter.retain_recent();
    }
    limiter.check_key(key).map_err(|_| Problem::new(Sort::TooMany, refused))
}

/// An open answer without end.
pub(crate) struct Streaming {
    limits: Limits,
    user: UserName,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut streams = self.limits.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = streams.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asker_has_limits_of_their_own() {
        let limits = Limits::new(2, 1);
        let (ada, bob): (UserName, UserName) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let asks =
            |user: &UserName| (0..10).filter(|_| limits.ask(&Asker::User(user.clone())).is_ok()).count();
        assert_eq!((asks(&ada), asks(&bob)), (4, 4), "two seconds' worth at once");
        let open = limits.stream(&ada).unwrap_or_else(|_| panic!("the first one"));
        assert!(limits.stream(&ada).is_err() && limits.stream(&bob).is_ok());
        drop(open);
        assert!(limits.stream(&ada).is_ok());
        let logins = (0..100).filter(|_| limits.log_in(None).is_ok()).count();
        assert!((20..25).contains(&logins), "{logins}");
        let free = Limits::new(0, 1);
        assert!((0..1000).all(|_| free.ask(&Asker::Unknown(None)).is_ok()));
    }
}
