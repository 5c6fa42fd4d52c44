//! Bodies on their way through, within limits of size and silence.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::state::InFlight;

/// Bytes of a request's body.
pub(crate) const LARGEST_REQUEST: u64 = 1 << 30;

/// How long a client may stop sending in the middle of a body.
const CLIENT_SILENCE: Duration = Duration::from_mins(1);

/// How long a member may stop sending in the middle of a body. Streams of events are silent for long.
const MEMBER_SILENCE: Duration = Duration::from_mins(10);

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    #[error("the body is larger than {LARGEST_REQUEST} bytes")]
    TooLarge,
    #[error("nothing of the body came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the connection broke off")]
    Connection(#[from] hyper::Error),
}

/// A body that is passed on as it comes.
pub(crate) struct Passing {
    /// Nothing, for a body without bytes.
    inner: Option<Incoming>,
    left: u64,
    silence: Duration,
    /// Runs while nothing comes.
    silent: Option<Pin<Box<Sleep>>>,
    /// Who is busy with it until its end.
    _member: Option<InFlight>,
    /// Told of every piece when it passes, and dropped with the last one: whoever holds the other end learns how it goes.
    passed: Option<watch::Sender<Instant>>,
}

impl Passing {
    pub(crate) fn empty() -> Self {
        Self { inner: None, left: 0, silence: CLIENT_SILENCE, silent: None, _member: None, passed: None }
    }

    pub(crate) fn from_client(body: Incoming, passed: Option<watch::Sender<Instant>>) -> Self {
        let inner = (!body.is_end_stream()).then_some(body);
        Self { inner, left: LARGEST_REQUEST, silence: CLIENT_SILENCE, silent: None, _member: None, passed }
    }

    pub(crate) fn from_member(body: Incoming, member: InFlight) -> Self {
        Self {
            inner: Some(body),
            left: u64::MAX,
            silence: MEMBER_SILENCE,
            silent: None,
            _member: Some(member),
            passed: None,
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(context) else {
            let silent = this.silent.get_or_insert_with(|| Box::pin(sleep(this.silence)));
            ready!(silent.as_mut().poll(context));
            return Poll::Ready(Some(Err(BrokenOff::Silent(this.silence))));
        };
        this.silent = None;
        let Some(frame) = frame.transpose()? else {
            this.passed = None;
            return Poll::Ready(None);
        };
        if let Some(passed) = &this.passed {
            passed.send_replace(Instant::now());
        }
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(BrokenOff::TooLarge))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
