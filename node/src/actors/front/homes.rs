//! Which device of its node a model is on. Pure.

use std::collections::BTreeMap;

use shoal_protocol::DeviceIndex;

use crate::actors::backend::Outlook;
use crate::config::{DeviceName, WithoutKernel};

/// A device that models can be on.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Its place in the node's list.
    pub(crate) device: DeviceIndex,
    /// As the configuration calls it.
    pub(crate) name: DeviceName,
    /// What its models may hold.
    pub(crate) budget_bytes: u64,
}

/// What a device could make of a model, or why nothing.
pub(crate) type Offer = Result<Outlook, String>;

/// Where a model is, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// The device.
    pub(crate) device: DeviceIndex,
    /// Empty where there is no other device.
    pub(crate) why: String,
    /// What the model is there.
    pub(crate) outlook: Outlook,
}

/// The devices of a node, and the models that were given to each. A model stays where it was put for as long as the device can
/// have it.
#[derive(Debug)]
pub(crate) struct Homes {
    sites: Vec<Site>,
    /// By any name of the model.
    placed: BTreeMap<String, DeviceName>,
    without_kernel: WithoutKernel,
    given: BTreeMap<String, (DeviceIndex, u64)>,
}

impl Homes {
    /// Nothing is anywhere. `placed` has the models for which a device was chosen.
    pub(crate) fn new(
        sites: Vec<Site>,
        placed: BTreeMap<String, DeviceName>,
        without_kernel: WithoutKernel,
    ) -> Self {
        Self { sites, placed, without_kernel, given: BTreeMap::new() }
    }

    /// Puts a model, which is called so, on a device. `offers` are those of all devices, in their order.
    ///
    /// # Errors
    /// Why none has it, with what to do.
    pub(crate) fn handle_model(
        &mut self,
        name: &str,
        aliases: &[String],
        offers: &[Offer],
    ) -> Result<Home, String> {
        let home = self.choose(name, aliases, offers)?;
        self.given.insert(name.to_owned(), (home.device, home.outlook.bytes));
        Ok(home)
    }

    fn choose(&self, name: &str, aliases: &[String], offers: &[Offer]) -> Result<Home, String> {
        let all = || self.sites.iter().zip(offers);
        let mut names = std::iter::once(name).chain(aliases.iter().map(String::as_str));
        if let Some(chosen) = names.find_map(|name| self.placed.get(name)) {
            let (site, offer) = all().find(|(site, _)| site.name == *chosen).ok_or_else(|| {
                let there: Vec<_> = self.sites.iter().map(|site| site.name.to_string()).collect();
                format!("models.devices puts it on {chosen}, and the devices here are {}", there.join(", "))
            })?;
            return home(site, offer, "as configured".to_owned());
        }
        let cpu = all().find(|(site, _)| site.name == DeviceName::Cpu);
        let Some((first, first_offer)) = all().find(|(site, _)| site.name != DeviceName::Cpu) else {
            let (site, offer) = cpu.ok_or("the node has no device")?;
            return home(site, offer, String::new());
        };
        let fitting = all().filter_map(|(site, offer)| {
            let bytes = offer.as_ref().ok()?.bytes;
            (site.name != DeviceName::Cpu && bytes <= site.budget_bytes).then_some((site, offer))
        });
        if let Some((site, offer)) = fitting.max_by_key(|(site, _)| self.preference(site, name)) {
            return home(site, offer, "the GPU with most to spare when it was first asked for".to_owned());
        }
        match (first_offer, cpu) {
            (Err(missing), Some((cpu, offer))) if self.without_kernel == WithoutKernel::Cpu => {
                home(cpu, offer, format!("{missing} (gpu.without_kernel = \"cpu\")"))
            }
            (Err(missing), Some(_)) => Err(format!(
                "{}: {missing}: gpu.without_kernel = \"cpu\", or \"cpu\" for it in models.devices",
                first.name
            )),
            _ => home(first, first_offer, String::new()),
        }
    }

    /// Where the model is already; else where most is left for it, the first of equals.
    fn preference(&self, site: &Site, model: &str) -> (bool, u64, std::cmp::Reverse<DeviceIndex>) {
        let is_there = self.given.get(model).is_some_and(|(device, _)| *device == site.device);
        let others = self.given.iter().filter(|(name, (device, _))| *device == site.device && *name != model);
        let taken: u64 = others.map(|(_, (_, bytes))| bytes).sum();
        (is_there, site.budget_bytes.saturating_sub(taken), std::cmp::Reverse(site.device))
    }
}

fn home(site: &Site, offer: &Offer, why: String) -> Result<Home, String> {
    let outlook = *offer.as_ref().map_err(|missing| match site.name {
        DeviceName::Cpu => missing.clone(),
        DeviceName::Cuda(_) => format!("{}: {missing}", site.name),
    })?;
    if site.name != DeviceName::Cpu && outlook.bytes > site.budget_bytes {
        return Err(format!(
            "it needs {} bytes, and models on {} may hold {}: raise gpu.memory_bytes, or serve it elsewhere",
            outlook.bytes, site.name, site.budget_bytes,
        ));
    }
    Ok(Home { device: site.device, why, outlook })
}

#[cfg(test)]
mod tests {
    use shoal_kernels::Dtype;

    use super::*;

    /// The CPU, then GPUs of these budgets.
    fn homes(gpus: &[u64], placed: &[(&str, DeviceName)], without_kernel: WithoutKernel) -> Homes {
        let cpu = Site { device: DeviceIndex(0), name: DeviceName::Cpu, budget_bytes: 1000 };
        let gpu = |(number, bytes): (u32, &u64)| Site {
            device: DeviceIndex(number as u16 + 1),
            name: DeviceName::Cuda(number),
            budget_bytes: *bytes,
        };
        let sites = std::iter::once(cpu).chain((0..).zip(gpus).map(gpu)).collect();
        let placed = placed.iter().map(|(name, device)| ((*name).to_owned(), *device)).collect();
        Homes::new(sites, placed, without_kernel)
    }

    fn of(bytes: u64) -> Offer {
        Ok(Outlook { dtype: Dtype::F16, bytes, tokens_max: 512 })
    }

    #[test]
    fn models_are_spread_over_gpus_and_stay_where_they_are() {
        let mut homes = homes(&[100, 100], &[], WithoutKernel::Refuse);
        let mut put = |name: &str, bytes: u64| {
            homes.handle_model(name, &[], &[of(bytes), of(bytes), of(bytes)]).expect("room").device.0
        };
        assert_eq!([put("a", 60), put("b", 50), put("c", 30), put("d", 10)], [1, 2, 2, 1]);
        assert_eq!([put("a", 60), put("c", 30)], [1, 2], "asked for again");
        assert_eq!(put("e", 90), 1, "more than is left: memory is shared in turns");
    }

    #[test]
    fn what_is_chosen_is_done_or_refused() {
        let chosen = [("a", DeviceName::Cuda(1)), ("b", DeviceName::Cpu), ("c", DeviceName::Cuda(7))];
        let mut homes = homes(&[100, 100], &chosen, WithoutKernel::Cpu);
        let offers = [of(50), of(50), of(50)];
        let on = homes.handle_model("long-a", &["a".to_owned()], &offers).expect("there");
        assert_eq!((on.device.0, on.why.as_str()), (2, "as configured"));
        assert_eq!(homes.handle_model("b", &[], &offers).expect("there").device.0, 0);
        let error = homes.handle_model("c", &[], &offers).expect_err("not there");
        assert!(error.ends_with("the devices here are cpu, cuda:0, cuda:1"), "{error}");
        let no_kernel = [of(50), Err("no kernel".to_owned()), Err("no kernel".to_owned())];
        let error =
            homes.handle_model("a", &[], &no_kernel).expect_err("never another device than the chosen");
        assert_eq!(error, "cuda:1: no kernel");
    }

    #[test]
    fn without_a_kernel_the_cpu_serves_only_where_that_was_said() {
        let offers = [of(50), Err("no kernel".to_owned())];
        let error = homes(&[100], &[], WithoutKernel::Refuse).handle_model("m", &[], &offers);
        let error = error.expect_err("refused");
        assert!(error.starts_with("cuda:0: no kernel: gpu.without_kernel"), "{error}");
        let home =
            homes(&[100], &[], WithoutKernel::Cpu).handle_model("m", &[], &offers).expect("on the CPU");
        assert_eq!((home.device.0, home.why.as_str()), (0, "no kernel (gpu.without_kernel = \"cpu\")"));
    }

    #[test]
    fn what_is_larger_than_any_gpu_is_refused_with_both_sizes() {
        let mut homes = homes(&[100, 120], &[], WithoutKernel::Cpu);
        let put = |homes: &mut Homes, bytes| homes.handle_model("m", &[], &[of(9), of(bytes), of(bytes)]);
        assert_eq!(put(&mut homes, 110).expect("the larger one").device.0, 2);
        let error = put(&mut homes, 130).expect_err("no room anywhere");
        assert!(error.contains("130 bytes") && error.contains("cuda:0 may hold 100"), "{error}");
    }
}
