//! `shoal mesh init`

use serde_json::json;
use shoal_mesh::{Authority, IdentityError};
use shoal_protocol::message::Role;

use super::args::MeshInitArgs;
use super::exit::{Exit, Stop};
use super::output::Output;
use crate::config::Environment;

pub(super) fn init(args: &MeshInitArgs) -> Result<Exit, Stop> {
    let home = args.dir.clone().unwrap_or_else(|| Environment::of_process().data_dir());
    let (authority, identity, client) = (home.join("authority"), home.join("identity"), home.join("client"));
    let refused = |error: IdentityError| Stop::new(Exit::Model, error.to_string());
    let root = Authority::create().map_err(refused)?;
    let issuer = root.issuer().map_err(refused)?;
    let node = issuer.issue(Role::Node, &args.node).map_err(refused)?;
    root.save(&authority).map_err(refused)?;
    node.save(&identity).map_err(refused)?;
    issuer.save(&identity).map_err(refused)?;
    let first_client = issuer.issue(Role::Client, "client").map_err(refused)?;
    first_client.save(&client).map_err(refused)?;
    let mut output = Output::new();
    let paths = [&authority, &identity, &client].map(|path| path.display().to_string());
    if args.json {
        let [authority, identity, client] = paths;
        output.json(&json!({
            "authority": authority, "identity": identity, "client": client, "node": node.node_id().to_string(),
        }))?;
    } else {
        let [authority, identity, client] = paths;
        output.line(&format!("authority  {authority}  (the root key: move this directory offline)"))?;
        output.line(&format!("issuer     {identity}  {}", node.node_id()))?;
        output.line(&format!("client     {client}"))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}
