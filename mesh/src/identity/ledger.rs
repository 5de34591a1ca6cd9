//! Which keys each join token has certified: in memory to decide, on disk so that a restart forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use shoal_protocol::NodeId;
use shoal_protocol::message::JoinToken;

use super::files::{IdentityError, sync_dir};
use super::time::DAY_S;

const LEDGER_FILE: &str = "tokens.ledger";
const LEDGER_NEW_FILE: &str = "tokens.ledger.new";
/// Uses kept; when so many are unexpired, joins are refused until some expire.
pub(super) const USES_KEPT_MAX: usize = 65_536;
/// Uses are kept so long beyond their token's end: as far as the issuer's clock may be set back.
const KEPT_AFTER_S: u64 = DAY_S;

/// A use of a token by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    nonce: [u8; 16],
    key: NodeId,
    expires_at_unix_s: u64,
}

impl Use {
    /// Nonce, key, expiry (little-endian), check.
    const BYTES: usize = 16 + 16 + 8 + 8;

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..16].copy_from_slice(&self.nonce);
        out[16..32].copy_from_slice(&self.key.0);
        out[32..40].copy_from_slice(&self.expires_at_unix_s.to_le_bytes());
        let check = Sha256::digest(&out[..40]);
        out[40..].copy_from_slice(&check[..8]);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (expires, _) = rest.split_first_chunk()?;
        let found =
            Self { nonce: *nonce, key: NodeId(*key), expires_at_unix_s: u64::from_le_bytes(*expires) };
        (found.encode() == bytes).then_some(found)
    }
}

/// Whether a token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// For the first time by this key: to be recorded before anything is given for it.
    New,
    /// The same key asks again, because the answer was lost: nothing is used up.
    Again,
    /// Other keys have used it up.
    Exhausted,
    /// Too many uses are remembered: some must expire first.
    Full,
}

/// Keys by token. Pure.
#[derive(Debug, Default)]
struct Uses {
    by_token: BTreeMap<[u8; 16], (u64, BTreeSet<NodeId>)>,
    count: usize,
}

impl Uses {
    fn right(&self, token: &JoinToken, key: NodeId) -> Right {
        let keys = self.by_token.get(&token.nonce).map(|(_, keys)| keys);
        let used = keys.map_or(0, BTreeSet::len);
        if keys.is_some_and(|keys| keys.contains(&key)) {
            Right::Again
        } else if used >= token.uses_max as usize {
            Right::Exhausted
        } else if self.count >= USES_KEPT_MAX {
            Right::Full
        } else {
            Right::New
        }
    }

    fn record(&mut self, Use { nonce, key, expires_at_unix_s }: Use) {
        let (_, keys) = self.by_token.entry(nonce).or_insert_with(|| (expires_at_unix_s, BTreeSet::new()));
        self.count += usize::from(keys.insert(key));
    }

    /// Forgets what no clock can bring back; says whether there was any.
    fn forget_expired(&mut self, now_unix_s: u64) -> bool {
        let before = self.count;
        self.by_token.retain(|_, (expires, _)| expires.saturating_add(KEPT_AFTER_S) > now_unix_s);
        self.count = self.by_token.values().map(|(_, keys)| keys.len()).sum();
        self.count < before
    }

    fn all(&self) -> impl Iterator<Item = Use> {
        self.by_token.iter().flat_map(|(nonce, (expires, keys))| {
            keys.iter().map(|key| Use { nonce: *nonce, key: *key, expires_at_unix_s: *expires })
        })
    }
}

/// The uses and their file, which is locked while this lives: an append is on the disk before the use counts.
#[derive(Debug)]
pub(super) struct Ledger {
    uses: Uses,
    dir: PathBuf,
    file: File,
    /// Records in the file, forgotten ones included.
    records: usize,
    /// A write failed: what the disk holds is unknown until the file is read again.
    is_broken: bool,
}

impl Ledger {
    /// Opens the file of `dir`, made if it is not there. Half a record at its end is a use whose certificate never
    /// left, and is cut off; damage anywhere else is an error, because uses after it would be forgotten.
    pub(super) fn open(dir: &Path, now_unix_s: u64) -> Result<Self, IdentityError> {
        let path = dir.join(LEDGER_FILE);
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let mut file = private().read(true).append(true).create(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::Busy { path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let mut uses = Uses::default();
        let mut records = 0;
        for (at, record) in bytes.chunks(Use::BYTES).enumerate() {
            match Use::decode(record) {
                Some(found) => uses.record(found),
                None if (at + 1) * Use::BYTES >= bytes.len() => break,
                None => {
                    let what = format!(
                        "record {at} is damaged: uses of join tokens may be lost; delete the file once every token \
                         made so far has expired"
                    );
                    return Err(IdentityError::Malformed { path, what });
                }
            }
            records = at + 1;
        }
        file.set_len((records * Use::BYTES) as u64).map_err(failed)?;
        file.sync_all().and_then(|()| sync_dir(dir)).map_err(failed)?;
        let mut ledger = Self { uses, dir: dir.to_owned(), file, records, is_broken: false };
        if ledger.uses.forget_expired(now_unix_s) {
            ledger.rewrite().map_err(failed)?;
        }
        Ok(ledger)
    }

    /// What a key may do with a token.
    pub(super) fn right(&mut self, token: &JoinToken, key: NodeId, now_unix_s: u64) -> Right {
        if self.uses.count >= USES_KEPT_MAX {
            self.uses.forget_expired(now_unix_s);
        }
        self.uses.right(token, key)
    }

    /// Records a use that [`right`](Self::right) allowed. When this returns, the use is on the disk.
    pub(super) fn record(&mut self, token: &JoinToken, key: NodeId) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write failed; restart the node once the disk is sound"));
        }
        let new = Use { nonce: token.nonce, key, expires_at_unix_s: token.expires_at_unix_s };
        self.is_broken = true;
        self.uses.record(new);
        if self.records >= 2 * USES_KEPT_MAX {
            self.rewrite()?;
        } else {
            self.file.write_all(&new.encode())?;
            self.file.sync_data()?;
            self.records += 1;
        }
        self.is_broken = false;
        Ok(())
    }

    /// Replaces the file by one without forgotten records.
    fn rewrite(&mut self) -> io::Result<()> {
        let path = self.dir.join(LEDGER_NEW_FILE);
        let mut file = private().read(true).append(true).create(true).open(&path)?;
        file.set_len(0)?;
        file.try_lock().map_err(io::Error::from)?;
        let bytes: Vec<u8> = self.uses.all().flat_map(|found| found.encode()).collect();
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&path, self.dir.join(LEDGER_FILE))?;
        sync_dir(&self.dir)?;
        file.seek(SeekFrom::End(0))?;
        (self.file, self.records) = (file, self.uses.count);
        Ok(())
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(nonce: u8, uses_max: u32) -> JoinToken {
        JoinToken {
            authority: [0; 32],
            issuer: NodeId([0; 16]),
            issuer_address: String::new(),
            role: shoal_protocol::message::Role::Node,
            label: String::new(),
            issued_at_unix_s: 0,
            expires_at_unix_s: 600,
            uses_max,
            nonce: [nonce; 16],
            mac: [0; 32],
        }
    }

    fn key(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    #[test]
    fn uses_count_by_key_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let token = token(1, 2);
        let mut ledger = Ledger::open(dir.path(), 0).unwrap();
        assert!(
            matches!(Ledger::open(dir.path(), 0), Err(IdentityError::Busy { .. })),
            "one issuer at a time"
        );
        assert_eq!(ledger.right(&token, key(1), 0), Right::New);
        ledger.record(&token, key(1)).unwrap();
        assert_eq!(ledger.right(&token, key(1), 0), Right::Again);
        ledger.record(&token, key(2)).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(dir.path(), 0).unwrap();
        assert_eq!(ledger.right(&token, key(3), 0), Right::Exhausted);
        assert_eq!(ledger.right(&token, key(2), 0), Right::Again);
        assert_eq!(ledger.right(&self::token(2, 1), key(3), 0), Right::New);
    }

    /// However a crash cuts the file, the whole records count and the ledger works on.
    #[test]
    fn a_torn_record_is_cut_off_and_damage_elsewhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let token = token(1, 9);
        let mut ledger = Ledger::open(dir.path(), 0).unwrap();
        ledger.record(&token, key(1)).unwrap();
        ledger.record(&token, key(2)).unwrap();
        drop(ledger);
        let path = dir.path().join(LEDGER_FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in Use::BYTES..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut ledger = Ledger::open(dir.path(), 0).unwrap();
            assert_eq!(ledger.right(&token, key(1), 0), Right::Again);
            assert_eq!(ledger.right(&token, key(2), 0), Right::New);
            ledger.record(&token, key(3)).unwrap();
            drop(ledger);
            let mut ledger = Ledger::open(dir.path(), 0).unwrap();
            assert_eq!(ledger.right(&token, key(3), 0), Right::Again, "cut at {cut}");
        }
        let mut damaged = whole;
        damaged[3] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(Ledger::open(dir.path(), 0), Err(IdentityError::Malformed { .. })));
    }

    #[test]
    fn what_expired_long_ago_leaves_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path(), 0).unwrap();
        ledger.record(&token(1, 1), key(1)).unwrap();
        drop(ledger);
        let size = || std::fs::metadata(dir.path().join(LEDGER_FILE)).unwrap().len();
        drop(Ledger::open(dir.path(), 600 + KEPT_AFTER_S - 1).unwrap());
        assert_eq!(size(), Use::BYTES as u64);
        let mut ledger = Ledger::open(dir.path(), 600 + KEPT_AFTER_S).unwrap();
        assert_eq!(size(), 0);
        ledger.record(&token(2, 1), key(2)).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(dir.path(), 0).unwrap();
        assert_eq!(ledger.right(&token(2, 1), key(3), 0), Right::Exhausted);
    }

    #[test]
    fn a_full_ledger_refuses_until_uses_expire() {
        let mut uses = Uses::default();
        for number in 0..USES_KEPT_MAX as u64 {
            let mut at = key(0);
            at.0[..8].copy_from_slice(&number.to_le_bytes());
            uses.record(Use { nonce: [1; 16], key: at, expires_at_unix_s: 600 });
        }
        assert_eq!(uses.right(&token(2, 1), key(9)), Right::Full);
        assert!(uses.forget_expired(600 + KEPT_AFTER_S));
        assert_eq!(uses.right(&token(2, 1), key(9)), Right::New);
    }
}
