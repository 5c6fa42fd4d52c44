//! Whom the gates of rollouts ask: a Prometheus, and addresses that answer with a number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{StatusCode, Uri};
use plimsoll_agent::Agent;
use plimsoll_engine::Hints;
use plimsoll_model::ObjectKey;
use plimsoll_model::gate::Ask;
use plimsoll_model::id::InstanceId;
use plimsoll_model::kind::GateSources;
use plimsoll_model::quantity::Span;
use plimsoll_plan::{AnswerView, UsedView};
use plimsoll_reconcile::Gauges;
use plimsoll_web::{Client, Connector};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::usage::Sampler;

/// How long one answer may take, and how many bytes of it there may be.
const WITHIN: Duration = Duration::from_secs(10);
const LARGEST: usize = 1 << 20;

/// Time between two equal questions.
const EVERY: Duration = Duration::from_secs(5);

/// How long an answer says something about now.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// How long a question is remembered that nobody has any more.
const KEPT: Duration = Duration::from_mins(10);

/// Questions under way at the same time, and questions that are remembered.
const TOGETHER: usize = 16;
const MOST: usize = 10_000;

/// Characters of what Prometheus says against a question.
const LONGEST_REASON: usize = 200;

/// Asks, and remembers what was answered.
pub(crate) struct Sources {
    client: Client<Connector, Full<Bytes>>,
    hints: Hints,
    known: Mutex<HashMap<Question, Known>>,
    turns: Semaphore,
}

/// Whom to ask, and how to understand the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Question {
    Prometheus(String),
    Plain(String),
}

#[derive(Default)]
struct Known {
    answer: Option<Result<f64, String>>,
    /// When it was asked for.
    asked: Option<Instant>,
    wanted: Option<Instant>,
    under_way: bool,
    /// Who is told of another answer.
    apps: BTreeSet<ObjectKey>,
}

/// The handle that the reconciler has: questions outlive its passes.
#[derive(Clone)]
pub(crate) struct Asked {
    sources: Arc<Sources>,
    sampler: Arc<Sampler>,
}

impl Asked {
    pub(crate) fn of(hints: Hints, agent: Option<Agent>) -> Self {
        Self { sources: Arc::new(Sources::new(hints)), sampler: Arc::new(Sampler::new(agent)) }
    }
}

impl Gauges for Asked {
    fn reading(&self, app: &ObjectKey, sources: &GateSources, ask: &Ask) -> Option<AnswerView> {
        let question = match Question::of(sources, ask) {
            Ok(question) => question,
            Err(why) => return Some(AnswerView { answer: Err(why), age: Span::ZERO }),
        };
        let mut known = self.sources.lock();
        let now = Instant::now();
        if known.len() >= MOST && !known.contains_key(&question) {
            known.retain(|_, it| it.wanted.is_none_or(|wanted| now.duration_since(wanted) < KEPT));
            if known.len() >= MOST {
                return Some(AnswerView { answer: Err("too much is asked already".into()), age: Span::ZERO });
            }
        }
        let entry = known.entry(question.clone()).or_default();
        entry.wanted = Some(now);
        entry.apps.insert(app.clone());
        let age = entry.asked.map(|asked| now.duration_since(asked));
        if !entry.under_way && age.is_none_or(|age| age >= EVERY) {
            entry.under_way = true;
            tokio::spawn(find_out(self.sources.clone(), question));
        }
        let age = age.filter(|age| *age < GOOD_FOR)?;
        let age = Span::millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Some(AnswerView { answer: entry.answer.clone()?, age })
    }

    fn used(&self, copies: &[InstanceId]) -> BTreeMap<InstanceId, UsedView> {
        self.sampler.used(copies)
    }
}

async fn find_out(sources: Arc<Sources>, question: Question) {
    let turn = sources.turns.acquire().await;
    let asked = Instant::now();
    let answer = sources.ask(&question).await;
    drop(turn);
    let mut known = sources.lock();
    let Some(entry) = known.get_mut(&question) else { return };
    let is_new = entry.answer.as_ref() != Some(&answer);
    entry.under_way = false;
    entry.answer = Some(answer);
    entry.asked = Some(asked);
    let apps = if is_new { std::mem::take(&mut entry.apps) } else { BTreeSet::new() };
    drop(known);
    for app in &apps {
        sources.hints.mark(app);
    }
}

impl Question {
    fn of(sources: &GateSources, ask: &Ask) -> Result<Self, String> {
        match ask {
            Ask::Prometheus(query) => {
                let Some(base) = &sources.prometheus else {
                    return Err("the target names no Prometheus (gates.prometheus)".into());
                };
                let query = form_urlencoded::byte_serialize(query.as_bytes()).collect::<String>();
                let base = base.trim_end_matches('/');
                Ok(Self::Prometheus(format!("{base}/api/v1/query?query={query}")))
            }
            Ask::Http(address) if sources.http.iter().any(|allowed| is_below(address, allowed)) => {
                Ok(Self::Plain(address.clone()))
            }
            Ask::Http(_) => Err("the target does not allow to ask there (gates.http)".into()),
        }
    }

    fn address(&self) -> &str {
        match self {
            Self::Prometheus(address) | Self::Plain(address) => address,
        }
    }
}

/// Whether an address is one of another or below it: scheme and host are the same, the path begins with the same segments
/// and has nothing in it that some server might take for the way up again.
fn is_below(address: &str, allowed: &str) -> bool {
    let (Ok(address), Ok(allowed)) = (address.parse::<Uri>(), allowed.parse::<Uri>()) else { return false };
    let prefix = allowed.path().trim_end_matches('/');
    let rest = address.path().strip_prefix(prefix);
    let is_plain = |rest: &str| {
        !rest.contains(['%', ';', '\\'])
            && !rest.split('/').any(|segment| segment.trim_matches('.').is_empty() && segment.len() > 1)
    };
    address.scheme() == allowed.scheme()
        && address.authority().is_some()
        && address.authority() == allowed.authority()
        && rest.is_some_and(|rest| (rest.is_empty() || rest.starts_with('/')) && is_plain(rest))
}

impl Sources {
    pub(crate) fn new(hints: Hints) -> Self {
        Self {
            client: plimsoll_web::client(),
            hints,
            known: Mutex::default(),
            turns: Semaphore::new(TOGETHER),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: &Question) -> Result<f64, String> {
        let uri: Uri = question.address().parse().map_err(|_| "that is no address".to_owned())?;
        let asked = async {
            let (head, body) = self.client.get(uri).await.ok()?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.ok()?;
            Some((head.status, body.to_bytes()))
        };
        let answer = tokio::time::timeout(WITHIN, asked).await.ok().flatten();
        // What exactly came instead may be of hosts that are none of the asking project's business.
        let (status, body) = answer.ok_or_else(|| "there is no answer".to_owned())?;
        match question {
            Question::Prometheus(_) => of_prometheus(status, &body),
            Question::Plain(_) if !status.is_success() => Err(format!("the answer is {status}")),
            Question::Plain(_) => number(std::str::from_utf8(&body).unwrap_or_default()),
        }
    }
}

fn number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| !number.is_nan());
    number.ok_or_else(|| "the answer is not a number".to_owned())
}

/// The one number of an instant query: <https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>.
fn of_prometheus(status: StatusCode, body: &[u8]) -> Result<f64, String> {
    #[derive(Deserialize)]
    struct Answer {
        data: Option<Data>,
        error: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase", tag = "resultType", content = "result")]
    enum Data {
        Scalar((f64, String)),
        Vector(Vec<Sample>),
    }
    #[derive(Deserialize)]
    struct Sample {
        value: (f64, String),
    }
    let strange = |_| format!("the answer is no scalar and no vector of Prometheus ({status})");
    let Answer { data, error } = serde_json::from_slice(body).map_err(strange)?;
    if let Some(error) = error {
        return Err(error.chars().take(LONGEST_REASON).collect());
    }
    match data {
        Some(Data::Scalar((_, text))) => number(&text),
        Some(Data::Vector(samples)) => match &samples[..] {
            [Sample { value: (_, text) }] => number(text),
            [] => Err("the answer is empty".into()),
            many => Err(format!("the answer is {} numbers, not one", many.len())),
        },
        None => Err("the answer is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_target_allows_is_asked() {
        let allowed = "http://127.0.0.1:9000/gate";
        for fine in ["http://127.0.0.1:9000/gate", "http://127.0.0.1:9000/gate/a?x=1"] {
            assert!(is_below(fine, allowed), "{fine}");
        }
        let others = [
            "http://127.0.0.1:9000/gates",
            "https://127.0.0.1:9000/gate",
            "http://127.0.0.1:9001/gate",
            "http://user@127.0.0.1:9000/gate",
            "http://127.0.0.1:9000/gate/../admin",
            "http://127.0.0.1:9000/gate/%2e%2E/admin",
            "http://127.0.0.1:9000/gate/..%2fadmin",
            "http://127.0.0.1:9000/gate/..;/admin",
            "/gate",
        ];
        for other in others {
            assert!(!is_below(other, allowed), "{other}");
        }
        assert!(is_below("http://127.0.0.1:9000/x", "http://127.0.0.1:9000"));
    }

    #[test]
    fn an_answer_is_one_number_or_says_why_not() {
        let read = |text: &str| of_prometheus(StatusCode::OK, text.as_bytes());
        let vector = |samples: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{samples}]}}}}"#)
        };
        assert_eq!(read(&vector(r#"{"metric":{},"value":[1,"0.5"]}"#)), Ok(0.5));
        assert_eq!(read(&vector("")), Err("the answer is empty".into()));
        assert_eq!(
            read(&vector(r#"{"metric":{},"value":[1,"NaN"]}"#)),
            Err("the answer is not a number".into())
        );
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#;
        assert_eq!(read(scalar), Ok(7.0));
        let error = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(read(error), Err("parse error".into()));
        assert!(read("<html>").is_err());
    }
}
