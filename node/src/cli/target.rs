//! Who does the work: a mesh, or a node inside this process. Either way it is reached through the client library.

use std::time::Duration;

use shoal_kernels::{Dtype, DtypePolicy};
use shoal_mesh::{Client, ConnectOptions, Identity};
use shoal_protocol::message::{Numerics, ServedBy};

use super::args::{DeviceArgs, MeshArgs};
use super::exit::{Exit, Stop};
use super::output::tell;
use crate::config::{Environment, Machine, NodeConfig, Overrides, resolve};
use crate::node::{Node, StartError};
use crate::store::ModelStore;

/// Time for a node inside this process to end; nothing is in flight then.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A client, and the node that it needs if that is in this process.
pub(super) struct Target {
    client: Client,
    node: Option<Node>,
    /// The model's name as the client must say it.
    pub(super) model: String,
    /// The precision that vectors must have.
    pub(super) numerics: Numerics,
}

impl Target {
    /// The mesh if one is named, else a node in this process that knows `model`.
    pub(super) async fn open(mesh: &MeshArgs, device: &DeviceArgs, model: &str) -> Result<Self, Stop> {
        if mesh.mesh.is_empty() {
            let flags = Overrides { model: Some(model.to_owned()), ..device_overrides(device) };
            return Self::in_process(&flags, model).await;
        }
        refuse_device_flags(device)?;
        Ok(Self {
            client: connect(mesh).await?,
            node: None,
            model: model.to_owned(),
            numerics: numerics(device.dtype.unwrap_or_default()),
        })
    }

    /// The mesh if one is named, else a node in this process, whatever its models.
    pub(super) async fn open_any(mesh: &MeshArgs, device: &DeviceArgs) -> Result<Self, Stop> {
        if !mesh.mesh.is_empty() {
            return Self::open(mesh, device, "").await;
        }
        let node = Node::start(private_config(&device_overrides(device))?).await?;
        Ok(Self::around(node, String::new()))
    }

    fn around(node: Node, model: String) -> Self {
        Self { client: node.client(), node: Some(node), model, numerics: Numerics::Any }
    }

    async fn in_process(flags: &Overrides, model: &str) -> Result<Self, Stop> {
        let config = private_config(flags)?;
        let store = ModelStore::open(config.models.store.clone())?;
        let resolved = store.resolve(&name_of(&config, model))?;
        let described = resolved.describe().map_err(Stop::with(Exit::Model))?;
        if described.pooling_assumed {
            tell(&format!(
                "shoal: {}: the model does not say how it pools; assuming the mean",
                resolved.name
            ));
        }
        Ok(Self::around(Node::start(config).await?, resolved.name))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The device's name and why it was chosen; the reason is empty where the node does not tell.
    pub(super) async fn device_of(&self, served_by: &ServedBy) -> (String, String) {
        let status = self.client.status(false).await.ok();
        let devices = status.map(|status| status.devices).unwrap_or_default();
        let device = devices.into_iter().find(|device| device.device == served_by.device);
        let reason = device.map(|device| device.reason).unwrap_or_default();
        (served_by.device_name.clone(), reason)
    }

    /// Ends the node in this process, if there is one.
    pub(super) async fn close(self) {
        if let Some(node) = self.node {
            node.shutdown(SHUTDOWN_GRACE).await;
        }
    }
}

/// A client of the mesh that the flags name.
pub(super) async fn connect(mesh: &MeshArgs) -> Result<Client, Stop> {
    if mesh.mesh.is_empty() {
        return Err(Stop::new(Exit::Usage, "this asks running nodes: say which with --mesh HOST:PORT"));
    }
    let dir = mesh.identity.clone().unwrap_or_else(|| Environment::of_process().data_dir().join("client"));
    let identity = Identity::load(&dir).map_err(Stop::with(Exit::Model))?;
    let options = ConnectOptions::new(&mesh.mesh, identity).renewed_in(dir);
    Ok(Client::connect(options).await?)
}

/// A node that nobody outside of the process can reach.
pub(super) fn private_config(flags: &Overrides) -> Result<NodeConfig, Stop> {
    let flags = Overrides { http: Some("off".to_owned()), quic: Some("off".to_owned()), ..flags.clone() };
    Ok(resolve(None, &flags, &Environment::of_process(), Machine::detect())?)
}

/// A directory that was given as a path is known under its own name.
pub(super) fn name_of(config: &NodeConfig, model: &str) -> String {
    let local = config.models.store.local.iter();
    let mut named = local.filter(|local| local.aliases.iter().any(|alias| alias == model));
    named.next().map_or_else(|| model.to_owned(), |local| local.name.clone())
}

/// The flags of [`DeviceArgs`].
pub(super) fn device_overrides(device: &DeviceArgs) -> Overrides {
    Overrides {
        device: device.device,
        gpu_memory_bytes: device.gpu_memory,
        dtype: device.dtype,
        cpu_isa: device.cpu_isa.clone(),
        threads: device.threads.map(usize::from),
        ..Overrides::default()
    }
}

/// The device of another process is its own business; its precision is not.
fn refuse_device_flags(device: &DeviceArgs) -> Result<(), Stop> {
    let given = [
        ("--device", device.device.is_some()),
        ("--gpu-memory", device.gpu_memory.is_some()),
        ("--cpu-isa", device.cpu_isa.is_some()),
        ("--threads", device.threads.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => Err(Stop::new(
            Exit::Usage,
            format!("{flag} is for a device in this process and cannot be used with --mesh"),
        )),
    }
}

fn numerics(dtype: DtypePolicy) -> Numerics {
    match dtype {
        DtypePolicy::Auto => Numerics::Any,
        DtypePolicy::Exact(Dtype::F32) => Numerics::F32,
        DtypePolicy::Exact(Dtype::F16 | Dtype::Bf16) => Numerics::Bits16,
        DtypePolicy::Exact(Dtype::I8) => Numerics::Int8,
    }
}

impl From<StartError> for Stop {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            StartError::Bind(_) | StartError::Thread(_) | StartError::Device { .. } => Exit::Unavailable,
            _ => Exit::Model,
        };
        Self::new(exit, error.to_string())
    }
}
