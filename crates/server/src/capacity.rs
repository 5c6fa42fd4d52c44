//! Room: programs are loaded while a target has room for all of their copies, however many are loaded at once.
//!
//! What a target has is declared, or, for this machine, what it is made of. What is taken is what all Apps there reserve, added up
//! anew for every load: whatever else changes an App need not know of it. Each load writes the sum that it came to, on the
//! condition that it is as it was read, in the transaction of its App; of two that saw the same room one is refused then, and adds
//! up again.

use std::collections::BTreeMap;

use plimsoll_model::access::Demand;
use plimsoll_model::app::Reserve;
use plimsoll_model::id::TargetName;
use plimsoll_model::kind::{Usage, UsageSpec};
use plimsoll_model::object::Timestamp;
use plimsoll_model::operations::Operations;
use plimsoll_model::quantity::{Bytes, Cpu};
use plimsoll_model::{App, AppSpec, Attached, Object, ObjectKey, Project, Target};
use plimsoll_reconcile::DEFAULT_TARGET;
use plimsoll_store::{Batch, New, Query, Scope, Store, StoreError};

use crate::content::each;

/// What copies are sure to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reserved {
    millicpu: u64,
    memory: u64,
}

impl Reserved {
    /// For all copies of an App, also of one that is stopped: starting it again is not a matter of room.
    fn of(spec: &AppSpec, operations: &Operations) -> Self {
        let mut sum = Self::default();
        for (name, component) in &spec.components {
            let declared =
                operations.replicas.get(name).copied().unwrap_or_else(|| component.most_replicas());
            let copies = u64::from(declared);
            let Reserve { cpu, memory } = component.reserve();
            let (cpu, memory) = (cpu.map_or(0, |it| it.millicores), memory.map_or(0, |it| it.bytes));
            sum = sum
                .plus(Self { millicpu: cpu.saturating_mul(copies), memory: memory.saturating_mul(copies) });
        }
        sum
    }

    fn plus(self, other: Self) -> Self {
        Self {
            millicpu: self.millicpu.saturating_add(other.millicpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    /// What of this is more than the capacity leaves beside `others`, as sentence parts.
    fn beyond(self, capacity: Reserve, others: Self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(Cpu { millicores }) = capacity.cpu {
            let free = millicores.saturating_sub(others.millicpu);
            if self.millicpu > free {
                found.push(format!("cpu: {}m wanted, {free}m of {millicores}m free", self.millicpu));
            }
        }
        if let Some(Bytes { bytes }) = capacity.memory {
            let (free, mebi) = (bytes.saturating_sub(others.memory), |bytes: u64| bytes / (1 << 20));
            if self.memory > free {
                let (wanted, free) = (self.memory.div_ceil(1 << 20), mebi(free));
                found.push(format!("memory: {wanted}Mi wanted, {free}Mi of {}Mi free", mebi(bytes)));
            }
        }
        found
    }
}

/// Adds to the batch that makes an App what keeps its target within its capacity.
///
/// # Errors
/// Inside: what is too much, as sentence parts.
pub(crate) async fn admit(
    store: &Store,
    batch: Batch,
    target: &Object<Target>,
    spec: &AppSpec,
    at: Timestamp,
) -> Result<Result<Batch, Vec<String>>, StoreError> {
    let name = &target.meta.key.name;
    let batch = batch.require(&target.meta.key, Some(target));
    let capacity = match target.spec.capacity {
        declared if declared.is_empty() && name.as_str() == DEFAULT_TARGET => machine(),
        declared => declared,
    };
    if capacity.is_empty() {
        return Ok(Ok(batch));
    }
    // Read before anything is added up: whoever comes in meanwhile changes it.
    let key = ObjectKey::of_installation(format!("target.{name}").parse().expect("two names form one"));
    let usage = store.get::<Usage>(&Scope::All, &key).await?;
    let others = reserved(store, name.as_str()).await?;
    let wanted = Reserved::of(spec, &Operations::default());
    let excess = wanted.beyond(capacity, others);
    if !excess.is_empty() {
        return Ok(Err(excess));
    }
    let now = others.plus(wanted);
    let sum = Demand { millicpu: now.millicpu, memory: now.memory, ..Demand::default() };
    let batch = match &usage {
        // Also if the sum is the same, so that two that saw it meet.
        Some(usage) => {
            let spec = UsageSpec { sum: Some(sum), gone: usage.spec.gone + 1 };
            batch.declare(usage, spec, ())
        }
        None => batch.create(New::<Usage> {
            uid: format!("usage-target-{name}").parse().unwrap_or_else(|_| target.meta.uid.clone()),
            key,
            owner: None,
            at,
            attached: Attached::default(),
            spec: UsageSpec { sum: Some(sum), gone: 0 },
            operations: (),
        }),
    };
    Ok(Ok(batch))
}

/// What all Apps of a target reserve together. One that is being deleted does so until it is gone.
async fn reserved(store: &Store, target: &str) -> Result<Reserved, StoreError> {
    let projects = store.list::<Project>(&Scope::All, &Query::default()).await?;
    let usual: BTreeMap<&str, &TargetName> = projects
        .iter()
        .filter_map(|project| Some((project.meta.key.name.as_str(), project.spec.target.as_ref()?)))
        .collect();
    let mut sum = Reserved::default();
    each::<App>(store, |app| {
        let of_project = || usual.get(app.meta.key.project.as_ref()?.as_str()).copied();
        let runs_on = app.spec.target.as_ref().or_else(of_project);
        if runs_on.map_or(DEFAULT_TARGET, TargetName::as_str) == target {
            sum = sum.plus(Reserved::of(&app.spec, &app.operations));
        }
    })
    .await?;
    Ok(sum)
}

/// What this machine is made of; nothing of what it does not tell.
fn machine() -> Reserve {
    let cores = std::thread::available_parallelism().ok();
    let cpu = cores.and_then(|cores| u64::try_from(cores.get()).ok()).map(|it| Cpu { millicores: it * 1000 });
    let facts = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = facts.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibi = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Reserve { cpu, memory: kibi.map(|kibi| Bytes { bytes: kibi * 1024 }) }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::operations::Power;

    use super::*;

    const MEBI: u64 = 1 << 20;

    #[test]
    fn the_last_bit_of_room_may_be_taken_and_no_more() {
        let capacity = Reserve { cpu: "1".parse().ok(), memory: "1000Mi".parse().ok() };
        let others = Reserved { millicpu: 640, memory: 318 * MEBI };
        let wanted = |millicpu, memory| Reserved { millicpu, memory }.beyond(capacity, others);
        assert!(wanted(360, 682 * MEBI).is_empty());
        assert_eq!(wanted(361, 0), ["cpu: 361m wanted, 360m of 1000m free"]);
        assert_eq!(wanted(0, 682 * MEBI + 1), ["memory: 683Mi wanted, 682Mi of 1000Mi free"]);
        assert!(Reserved { millicpu: u64::MAX, memory: 0 }.beyond(Reserve::default(), others).is_empty());
    }

    #[test]
    fn every_copy_counts_with_what_is_reserved_or_else_with_its_limits() {
        let spec = serde_json::json!({"components": {
            "a": {"command": ["x"], "replicas": 3, "resources": {"cpu": "200m", "memory": "10Mi"}, "reserve": {"cpu": "100m"}},
            "b": {"command": ["x"]},
        }});
        let spec: AppSpec = serde_json::from_value(spec).unwrap();
        let reserved = Reserved { millicpu: 300, memory: 30 * MEBI };
        assert_eq!(Reserved::of(&spec, &Operations::default()), reserved);
        let off = Operations { power: Power::Off, ..Operations::default() };
        assert_eq!(Reserved::of(&spec, &off), reserved, "what is stopped keeps its room");
        assert!(machine().cpu.is_some() && machine().memory.is_some());
    }
}
