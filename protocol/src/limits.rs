//! Every bound of the wire. A frame over its bound is refused before it is validated.

/// Bytes of a frame that carries no caller's data: hello, beacon, error, end, load, status request.
pub const CONTROL_BODY_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of one request frame. The client library splits a larger call into several attempts.
pub const REQUEST_BODY_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Bytes of one result frame. A node splits a larger answer over several frames.
pub const RESULT_BODY_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Bytes of a node's facts: every model that it has on disk, with names.
pub const FACTS_BODY_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Bytes of the frames with which certificates are asked for and given: strangers may send them.
pub const JOIN_BODY_BYTES_MAX: u32 = 32 * 1024;
/// Bytes of a status reply: histograms of every model and stage.
pub const STATUS_BODY_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Bytes of an answer to why a request ran where it did.
pub const EXPLANATION_BODY_BYTES_MAX: u32 = 256 * 1024;

/// Items (texts) in one request frame: the bound of OpenAI's embeddings API.
pub const REQUEST_ITEMS_MAX: usize = 2048;
/// Bytes of one text, before tokenizing. Longer than any covered model's limit by two orders of magnitude.
pub const ITEM_TEXT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Token ids in one item that carries ids instead of text.
pub const ITEM_TOKEN_IDS_MAX: usize = 128 * 1024;
/// Bytes of the query that documents are scored against.
pub const QUERY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a caller's own prompt or instruction.
pub const PROMPT_BYTES_MAX: usize = 16 * 1024;
/// Labels of one request, and of a model that classifies.
pub const LABELS_MAX: usize = 1024;
/// Bytes of one label.
pub const LABEL_BYTES_MAX: usize = 1024;
/// Bytes of all labels of a request, or of a model.
pub const LABELS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a model's name.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// Bytes of the router's decision record that travels with an attempt.
pub const DECISION_BYTES_MAX: usize = 512;
/// Attempts of one request that a node tells of.
pub const EXPLAINED_ATTEMPTS_MAX: usize = 256;
/// Bytes of an error message; longer ones are cut at a character boundary.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 1024;
/// Hops that a frame may take: straight to the device's node, or once through an entry node.
pub const HOPS_MAX: u8 = 1;
/// Values of one dense vector.
pub const DENSE_DIMS_MAX: u32 = 65_536;
/// Entries of one sparse vector: the largest vocabulary that is covered.
pub const SPARSE_ENTRIES_MAX: usize = 262_144;
/// Vectors of one text, where a model gives one for each token.
pub const MULTIVECTOR_ROWS_MAX: usize = 32_768;
/// Chunks of one text.
pub const CHUNKS_PER_ITEM_MAX: usize = 8192;
/// Spans of one text.
pub const SPANS_PER_ITEM_MAX: usize = 8192;
/// Models in one node's facts.
pub const FACTS_MODELS_MAX: usize = 4096;
/// Other names of one model.
pub const FACTS_ALIASES_MAX: usize = 16;
/// Devices of one node.
pub const FACTS_DEVICES_MAX: usize = 64;
/// Addresses of one node, of each sort.
pub const FACTS_ADDRESSES_MAX: usize = 16;
/// Bytes of one address (`host:port`).
pub const ADDRESS_BYTES_MAX: usize = 262;
/// Entries of one digest: eight cells of 512 nodes, dead ones included.
pub const FACTS_DIGEST_MAX: usize = 4096;
/// Members in one update of a follower: an update of so many has 50 kB.
pub const UPDATE_MEMBERS_MAX: usize = 2048;
/// Loads in one update of a follower: an update of so many has 144 kB.
pub const UPDATE_LOADS_MAX: usize = 2048;
/// Bytes of one certificate or certificate request (DER); those of Ed25519 keys have about 500.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Certificates of a chain, without the authority's: a member's and its issuer's, and one to spare.
pub const CHAIN_CERTIFICATES_MAX: usize = 3;
/// Bytes of the name that a join token gives.
pub const TOKEN_LABEL_BYTES_MAX: usize = 64;
/// Addresses of issuers that a member is told.
pub const JOIN_ISSUERS_MAX: usize = 16;
/// Addresses of members that a new node is told, and that a node remembers for its next start.
pub const JOIN_SEEDS_MAX: usize = 16;
/// Redirections of one part of a request. The node that is asked after the last one queues the request itself.
pub const REDIRECTS_MAX: u8 = 2;
/// Places that a refusal may name.
pub const ALTERNATIVES_MAX: usize = 4;
