//! `shoal mesh init`, `issuer`, `token`, `join` and `renew`

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::json;
use shoal_mesh::{
    Authority, ConnectError, Identity, Issuer, JoinError, JoinOptions, LiveIdentity, Token, TokenTerms,
};
use shoal_protocol::message::{RefusalReason, Role};

use super::args::{MeshInitArgs, MeshIssuerArgs, MeshJoinArgs, MeshRenewArgs, MeshTokenArgs, TokenArgs};
use super::exit::{Exit, Stop};
use super::output::{Output, tell};
use super::runtime::run_interruptible;
use crate::clock;
use crate::config::Environment;

fn in_home(dir: Option<&PathBuf>, default: &str) -> PathBuf {
    dir.cloned().unwrap_or_else(|| Environment::of_process().data_dir().join(default))
}

pub(super) fn init(args: &MeshInitArgs) -> Result<Exit, Stop> {
    let home = args.dir.clone().unwrap_or_else(|| Environment::of_process().data_dir());
    let (authority, identity, client) = (home.join("authority"), home.join("identity"), home.join("client"));
    // Asked first: half of a mesh is worse than none.
    for dir in [&identity, &client] {
        refuse_where_one_is(dir)?;
    }
    let root = Authority::create().map_err(Stop::with(Exit::Model))?;
    root.save(&authority).map_err(Stop::with(Exit::Model))?;
    let (node, issuer) = make_issuer(&root, &args.node, &identity)?;
    let first_client = issuer.issue(Role::Client, "client").map_err(Stop::with(Exit::Model))?;
    first_client.save(&client).map_err(Stop::with(Exit::Model))?;
    let mut output = Output::new();
    let [authority, identity, client] =
        [&authority, &identity, &client].map(|path| path.display().to_string());
    if args.json {
        output.json(&json!({
            "authority": authority, "identity": identity, "client": client, "node": node.node_id().to_string(),
        }))?;
    } else {
        output.line(&format!("authority  {authority}  (makes issuers only: move it offline)"))?;
        output.line(&format!("issuer     {identity}  node {}", node.node_id()))?;
        output.line(&format!("client     {client}"))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

pub(super) fn issuer(args: &MeshIssuerArgs) -> Result<Exit, Stop> {
    let root = Authority::load(&args.authority).map_err(Stop::with(Exit::Model))?;
    let (node, _) = make_issuer(&root, &args.node, &args.out)?;
    let mut output = Output::new();
    output.line(&format!("issuer     {}  node {}", args.out.display(), node.node_id()))?;
    output.flush()?;
    Ok(Exit::Ok)
}

/// A node's identity with an issuer of its own.
fn make_issuer(root: &Authority, name: &str, dir: &Path) -> Result<(Identity, Issuer), Stop> {
    let issuer = root.issuer().map_err(Stop::with(Exit::Model))?;
    let node = issuer.issue(Role::Node, name).map_err(Stop::with(Exit::Model))?;
    node.save(dir).map_err(Stop::with(Exit::Model))?;
    issuer.save(dir).map_err(Stop::with(Exit::Model))?;
    Ok((node, issuer))
}

pub(super) fn token(args: MeshTokenArgs) -> Result<Exit, Stop> {
    let dir = in_home(args.identity.as_ref(), "identity");
    let issuer = Issuer::load(&dir).map_err(Stop::with(Exit::Model))?;
    let node = Identity::load(&dir).map_err(Stop::with(Exit::Model))?.node_id();
    let noted = Issuer::address(&dir).map_err(Stop::with(Exit::Model))?;
    let issuer_address = args.issuer.or(noted).ok_or_else(|| {
        let what =
            "nobody knows yet where this issuer is reached: start its node, or give --issuer HOST:PORT";
        Stop::new(Exit::Usage, what)
    })?;
    let terms = TokenTerms {
        role: args.role.into(),
        label: args.label,
        ttl: args.ttl,
        uses_max: args.uses,
        issuer: node,
        issuer_address,
    };
    let now_unix_s = clock::unix_time().as_secs();
    let token = issuer.mint(terms, now_unix_s).map_err(Stop::with(Exit::Usage))?;
    let mut output = Output::new();
    if args.json {
        output.json(&json!({
            "token": token.to_string(),
            "issuer": token.issuer().to_string(),
            "issuer_address": token.issuer_address(),
            "expires_at_unix_s": token.expires_at_unix_s(),
            "uses": args.uses,
        }))?;
    } else {
        output.line(&token.to_string())?;
        if token.role() == Role::Node {
            // Not to stdout: the token alone is data.
            tell(&format!(
                "on the other machine: SHOAL_TOKEN=… shoal serve --join {}",
                token.issuer_address()
            ));
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}

pub(super) fn join(args: &MeshJoinArgs) -> Result<Exit, Stop> {
    let Some(token) = token_of(&args.token)? else {
        return Err(Stop::new(Exit::Usage, format!("there is no token: {TOKEN_WAYS}")));
    };
    let role = token.role();
    let identity = run_interruptible(join_and_save(&args.issuer, token, role, &args.out))?;
    let mut output = Output::new();
    let (name, id) = (identity.name(), identity.node_id());
    output.line(&format!("{name}  {id}  {}", args.out.display()))?;
    output.flush()?;
    Ok(Exit::Ok)
}

pub(super) fn renew(args: &MeshRenewArgs) -> Result<Exit, Stop> {
    let dir = in_home(args.identity.as_ref(), "client");
    let identity = Identity::load(&dir).map_err(Stop::with(Exit::Model))?;
    let live = LiveIdentity::from(identity.clone());
    let mut last = Stop::new(Exit::Model, format!("{}: names no issuer in `issuers`", dir.display()));
    for issuer in identity.issuers() {
        match run_interruptible(async { Ok(shoal_mesh::renew(&live, issuer, None).await) })? {
            Ok(next) => {
                next.save_certificate(&dir).map_err(Stop::with(Exit::Unavailable))?;
                return Ok(Exit::Ok);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// What `shoal serve --join` does where there is no identity: gets one as a node and stores it.
pub(super) async fn obtain(dir: &Path, issuer: &str, args: &TokenArgs) -> Result<(), Stop> {
    if Identity::is_in(dir) {
        tracing::info!(dir = %dir.display(), "there is an identity: --join has nothing to do");
        return Ok(());
    }
    let Some(token) = token_of(args)? else {
        let message = format!(
            "--join: {} holds no identity and there is no token to get one: {TOKEN_WAYS}",
            dir.display()
        );
        return Err(Stop::new(Exit::Usage, message));
    };
    let identity = join_and_save(issuer, token, Role::Node, dir).await?;
    let (node, seeds) = (identity.node_id(), identity.seeds());
    tracing::info!(%node, dir = %dir.display(), issuer, ?seeds, "got an identity; its certificate is renewed here");
    Ok(())
}

async fn join_and_save(issuer: &str, token: Token, role: Role, dir: &Path) -> Result<Identity, Stop> {
    // Asked first: what cannot be stored must not use up the token.
    refuse_where_one_is(dir)?;
    let identity = shoal_mesh::join(JoinOptions::new(issuer, token, role)).await?;
    identity.save(dir).map_err(Stop::with(Exit::Model))?;
    Ok(identity)
}

fn refuse_where_one_is(dir: &Path) -> Result<(), Stop> {
    if Identity::is_in(dir) {
        let message = format!("{} holds an identity already, which is not overwritten", dir.display());
        return Err(Stop::new(Exit::Model, message));
    }
    Ok(())
}

const TOKEN_WAYS: &str = "give --token-file FILE, SHOAL_TOKEN in the environment, or --token TOKEN";
/// Bytes of a token's file; a longer one is something else.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The token that was given, in whichever way.
fn token_of(args: &TokenArgs) -> Result<Option<Token>, Stop> {
    let line = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(read_token(file)?),
        (None, None) => Environment::of_process().get("SHOAL_TOKEN").map(str::to_owned),
    };
    line.map(|line| line.parse().map_err(Stop::with(Exit::Usage))).transpose()
}

fn read_token(file: &Path) -> Result<String, Stop> {
    let text = File::open(file).and_then(|file| io::read_to_string(file.take(TOKEN_FILE_BYTES_MAX)));
    text.map_err(|error| Stop::new(Exit::Model, format!("--token-file {}: {error}", file.display())))
}

impl From<JoinError> for Stop {
    fn from(error: JoinError) -> Self {
        let may_pass = match &error {
            JoinError::Connect(error) => {
                !matches!(error, ConnectError::Untrusted { .. } | ConnectError::Forbidden { .. })
            }
            JoinError::Refused { reason, .. } => {
                matches!(reason, RefusalReason::Overloaded | RefusalReason::Internal)
            }
            JoinError::Answer { .. } => true,
            JoinError::Identity(_) => false,
        };
        Self::new(if may_pass { Exit::Unavailable } else { Exit::Model }, error.to_string())
    }
}
