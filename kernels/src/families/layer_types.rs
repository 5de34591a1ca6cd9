//! Which layers see their neighbours alone.

use super::{FamilyError, post_norm::refuse};

/// Whether the layer at an index (below `count`) is local: as `types` says (transformers 5), or else `otherwise`.
pub(super) fn local_layers(
    types: Option<&[String]>,
    count: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<impl Fn(usize) -> bool, FamilyError> {
    const LOCAL: &str = "sliding_attention";
    const GLOBAL: &str = "full_attention";
    if let Some(types) = types {
        if let Some(kind) = types.iter().find(|kind| ![LOCAL, GLOBAL].contains(&kind.as_str())) {
            return refuse("layer_types", format!("{kind:?}"), "full_attention, sliding_attention");
        }
        if types.len() != count {
            return refuse("layer_types", format!("a list of {}", types.len()), "one for each layer");
        }
    }
    Ok(move |index: usize| types.map_or_else(|| otherwise(index), |types| types[index] == LOCAL))
}

/// Every so many layers one is of another kind.
pub(super) fn period(field: &'static str, layers: usize) -> Result<usize, FamilyError> {
    if layers == 0 { refuse(field, layers, "1 and more") } else { Ok(layers) }
}
