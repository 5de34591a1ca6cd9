//! All models of the mesh, for those who list them.

use std::collections::BTreeMap;

use shoal_protocol::message::{ModelState, Numerics};
use shoal_protocol::{Bytes, Place};

use super::View;
use super::models::Holding;

/// A model and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// Canonical name.
    pub name: String,
    /// Other names that reach it, by name.
    pub aliases: Vec<String>,
    /// The devices that have it, those that hold it first.
    pub places: Vec<ListedPlace>,
}

/// A model on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPlace {
    /// The device.
    pub place: Place,
    /// Where the model stands on it.
    pub state: ModelState,
    /// The precision in which it runs there.
    pub numerics: Numerics,
    /// Resident bytes, measured or estimated, to the KiB above.
    pub bytes: Bytes,
}

impl View {
    /// The models that some node has which is not gone, by name.
    #[must_use]
    pub fn models(&self) -> Vec<ListedModel> {
        let mut aliases: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for alias in self.models.aliases() {
            if let Some(model) = self.models.find(alias).filter(|model| model.name != alias) {
                aliases.entry(model.name).or_default().push(alias.to_owned());
            }
        }
        let listed = self.models.names().filter_map(|name| {
            let model = self.models.find(name)?;
            let all = model.holders.iter().chain(model.storers);
            let places = all.map(|holding| self.listed(holding)).collect();
            let aliases = aliases.remove(name).unwrap_or_default();
            Some(ListedModel { name: name.to_owned(), aliases, places })
        });
        listed.collect()
    }

    fn listed(&self, holding: &Holding) -> ListedPlace {
        ListedPlace {
            place: Place { node: self.node(holding.slot).id, device: holding.device },
            state: holding.state,
            numerics: holding.numerics,
            bytes: Bytes(holding.bytes()),
        }
    }
}
