//! The difference between two versions of a record.

use std::collections::BTreeMap;

use shoal_protocol::DeviceIndex;
use shoal_protocol::message::{FactsDelta, ModelFact, ModelFactKey, NodeFacts};

fn key(model: &ModelFact) -> (&str, DeviceIndex) {
    (&model.name, model.device)
}

/// Devices by index and models by name and device, one entry each: the order that deltas rely on.
pub(super) fn normalize(record: &mut NodeFacts) {
    record.devices.sort_by_key(|device| device.device);
    record.devices.dedup_by_key(|device| device.device);
    record.models.sort_by(|a, b| key(a).cmp(&key(b)));
    record.models.dedup_by(|a, b| key(a) == key(b));
}

/// Whether the record is in that order.
pub(super) fn is_normal(record: &NodeFacts) -> bool {
    record.devices.is_sorted_by(|a, b| a.device < b.device)
        && record.models.is_sorted_by(|a, b| key(a) < key(b))
}

/// What leads from `base` to `next`, which are normalized and of one life. `None`: addresses changed, which a delta
/// does not carry.
pub(super) fn between(base: &NodeFacts, next: &NodeFacts) -> Option<FactsDelta> {
    if base.peer_addresses != next.peer_addresses || base.client_addresses != next.client_addresses {
        return None;
    }
    let had: BTreeMap<_, _> = base.devices.iter().map(|device| (device.device, device)).collect();
    let has: BTreeMap<_, _> = next.devices.iter().map(|device| (device.device, device)).collect();
    let models_had: BTreeMap<_, _> = base.models.iter().map(|model| (key(model), model)).collect();
    let models_have: BTreeMap<_, _> = next.models.iter().map(|model| (key(model), model)).collect();
    let gone = |(name, device): (&str, DeviceIndex)| ModelFactKey { name: name.to_owned(), device };
    Some(FactsDelta {
        node: next.node,
        generation: next.generation,
        base_version: base.version,
        version: next.version,
        draining: (base.draining != next.draining).then_some(next.draining),
        devices_set: next.devices.iter().filter(|new| had.get(&new.device) != Some(new)).cloned().collect(),
        devices_unset: had.keys().filter(|device| !has.contains_key(device)).copied().collect(),
        models_set: next
            .models
            .iter()
            .filter(|new| models_had.get(&key(new)) != Some(new))
            .cloned()
            .collect(),
        models_unset: models_had
            .keys()
            .filter(|key| !models_have.contains_key(*key))
            .copied()
            .map(gone)
            .collect(),
    })
}

/// The record that `delta` makes of its base.
pub(super) fn apply(base: &NodeFacts, delta: &FactsDelta) -> NodeFacts {
    let mut next = base.clone();
    next.version = delta.version;
    next.draining = delta.draining.unwrap_or(base.draining);
    // What is set comes first, so that deduplication keeps it.
    next.devices = delta.devices_set.clone();
    next.devices
        .extend(base.devices.iter().filter(|old| !delta.devices_unset.contains(&old.device)).cloned());
    let unset: Vec<_> = delta.models_unset.iter().map(|key| (key.name.as_str(), key.device)).collect();
    let kept = base.models.iter().filter(|old| !unset.contains(&key(old)));
    next.models = delta.models_set.iter().chain(kept).cloned().collect();
    normalize(&mut next);
    next
}

/// Bytes of memory that a record takes, about.
pub(super) fn bytes(record: &NodeFacts) -> usize {
    let strings =
        |strings: &[String]| strings.iter().map(|text| text.len() + size_of::<String>()).sum::<usize>();
    let model = |model: &ModelFact| size_of::<ModelFact>() + model.name.len() + strings(&model.aliases);
    let devices = record.devices.iter().map(|device| size_of_val(device) + device.name.len()).sum::<usize>();
    let models = record.models.iter().map(model).sum::<usize>();
    size_of::<NodeFacts>()
        + strings(&record.peer_addresses)
        + strings(&record.client_addresses)
        + devices
        + models
}
