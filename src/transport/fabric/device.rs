//! One endpoint of libfabric, opened and ready: everything that is called in the library is called here.
//!
//! All its calls need `&mut`: the library is told that nobody enters it twice at once (`FI_THREAD_DOMAIN`).
//!
//! **Memory.** A [`Region`] is memory of ours that the library knows. A write keeps its source region alive until it is
//! complete or the endpoint is closed; a region that others may write into is closed before its memory is given back.
#![allow(unsafe_code)]

use super::abi::*;
use super::library::{Library, library, text_of};
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use nix::errno::Errno;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::Arc;

/// How memory may have to be registered: what libfabric calls FI_MR_BASIC, bit by bit.
const MR_MODE: c_int = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
/// Writes that may be under way at once.
const MAX_WRITES: usize = 256;
/// Completions that may wait to be read.
const MAX_COMPLETIONS: usize = 4096;
/// Completions that are read at once.
const BATCH: usize = 32;
/// No address of any provider is longer.
pub(super) const MAX_ADDRESS_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
const EAGAIN: isize = -(Errno::EAGAIN as isize);

/// A rank's endpoint as this one names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer(fi_addr_t);

/// Where in a peer's memory to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) peer: Peer,
    pub(super) addr: u64,
    pub(super) key: u64,
}

/// What came out of the completion queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A peer's write has arrived, with these bits.
    Arrived(u32),
    /// The write with this ticket is complete.
    Done(usize),
    /// The write with this ticket failed.
    Failed(usize, String),
}

/// Room for a provider's notes on one write.
#[repr(C, align(64))]
struct Context(UnsafeCell<[u8; CONTEXT_BYTES]>);

/// The library's objects that memory is registered with.
struct Domain {
    library: &'static Library,
    info: *mut fi_info,
    fabric: *mut fid_fabric,
    domain: *mut fid_domain,
}

// SAFETY: the library's objects belong to no thread; that only one at a time calls in is seen to by `Device` (`&mut`) and
// by whoever owns device and regions together (the hub's lock).
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: opened in `open` and closed only here, inner things first; regions and device hold this alive.
        unsafe {
            close(self.domain.cast());
            close(self.fabric.cast());
            (self.library.fi_freeinfo)(self.info);
        }
    }
}

/// Closes any object of the library; nothing for NULL.
///
/// # Safety
/// It is open, nothing that depends on it is, and it is not used again.
unsafe fn close(object: *mut fid) {
    if !object.is_null() {
        // SAFETY: every object begins with its `fid`, whose table has `close` (promised by the caller to be open).
        let code = unsafe { ((*(*object).ops).close)(object) };
        if code != 0 {
            tracing::debug!("closing an object of libfabric: error {code}");
        }
    }
}

/// Memory that the library knows, page-aligned and zeroed.
pub(super) struct Region {
    mr: *mut fid_mr,
    block: Block,
    skipped_bytes: usize,
    len_bytes: usize,
    /// What peers add an offset to.
    base: u64,
    _domain: Arc<Domain>,
}

// SAFETY: as for `Domain`; the memory itself is given out as spans only.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn span(&self) -> Span {
        self.block.span().cut(self.skipped_bytes, self.len_bytes)
    }

    /// What a peer needs to write here: the first address, and the key. 0 where it is not registered.
    pub(super) fn handle(&self) -> (u64, u64) {
        // SAFETY: open until drop.
        (self.base, if self.mr.is_null() { 0 } else { unsafe { (*self.mr).key } })
    }

    fn descriptor(&self) -> *mut c_void {
        // SAFETY: open until drop.
        if self.mr.is_null() { null_mut() } else { unsafe { (*self.mr).mem_desc } }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: opened in `register`, closed only here, before its memory goes with `block`.
        unsafe { close(self.mr.cast()) }
    }
}

/// What an address looks like to libfabric's C: room for the longest, the rest zero.
struct Name([u64; MAX_ADDRESS_BYTES / 8 + 1]);

/// An endpoint with its completion queue and its table of peers.
pub(super) struct Device {
    endpoint: *mut fid_ep,
    completions: *mut fid_cq,
    addresses: *mut fid_av,
    domain: Arc<Domain>,
    contexts: Box<[Context]>,
    /// The sources of writes under way, by ticket.
    sources: Box<[Option<Arc<Region>>]>,
    free: Vec<usize>,
    wait: Option<OwnedFd>,
    name: Vec<u8>,
    mr_mode: c_int,
    key_bits: u32,
    max_write_bytes: usize,
}

// SAFETY: as for `Domain`: every call takes `&mut self`.
unsafe impl Send for Device {}

impl Device {
    /// Opens an endpoint of `provider`, at the interface with the address `source` where the provider has such.
    pub(super) fn open(provider: &str, source: Option<IpAddr>) -> Result<Device> {
        let library = library()?;
        let info = match source.filter(|_| provider != super::provider::SHARED_MEMORY) {
            Some(source) => {
                Device::info(library, provider, Some(source)).or_else(|_| Device::info(library, provider, None))
            }
            None => Device::info(library, provider, None),
        }?;
        let mut domain = Domain { library, info, fabric: null_mut(), domain: null_mut() };
        let failed = |what: &str, code: c_int| match code {
            0 => Ok(()),
            code => Err(library.error(&format!("{what} (provider {provider})"), code as isize)),
        };
        // SAFETY: `info` is what `fi_getinfo` gave, complete; each object is checked before the next is opened from it.
        unsafe {
            failed("opening the fabric", (library.fi_fabric)((*info).fabric_attr, &mut domain.fabric, null_mut()))?;
            let open = (*(*domain.fabric).ops).domain;
            failed("opening the domain", open(domain.fabric, info, &mut domain.domain, null_mut()))?;
        }
        // SAFETY: as above; read once, as plain numbers.
        let (attributes, transmit, max_message_bytes) =
            unsafe { (&*(*info).domain_attr, &*(*info).tx_attr, (*(*info).ep_attr).max_msg_size) };
        let writes = transmit.size.clamp(1, MAX_WRITES);
        let mut device = Device {
            endpoint: null_mut(),
            completions: null_mut(),
            addresses: null_mut(),
            contexts: (0..writes).map(|_| Context(UnsafeCell::new([0; CONTEXT_BYTES]))).collect(),
            sources: (0..writes).map(|_| None).collect(),
            free: (0..writes).rev().collect(),
            wait: None,
            name: Vec::new(),
            mr_mode: attributes.mr_mode,
            key_bits: (attributes.mr_key_size.clamp(1, 8) * 8) as u32,
            max_write_bytes: max_message_bytes,
            domain: Arc::new(domain),
        };
        device.assemble(&failed)?;
        tracing::debug!(
            "libfabric {}: {provider}, registration mode {:#x}, {} writes at once, {}",
            text_of(library.version),
            device.mr_mode,
            writes,
            if device.wait.is_some() { "can be waited for" } else { "must be polled" }
        );
        Ok(device)
    }

    /// Asks for what is needed, and takes the first that is offered.
    fn info(library: &Library, provider: &str, source: Option<IpAddr>) -> Result<*mut fi_info> {
        let node = source.map(|source| CString::new(source.to_string()).expect("addresses have no NUL"));
        let name = CString::new(provider).map_err(|_| Error::invalid("a provider's name with a NUL"))?;
        let mut found = null_mut();
        // SAFETY: `fi_dupinfo(NULL)` gives complete hints with all attributes, or NULL; `prov_name` must come from malloc
        // because `fi_freeinfo` frees it; `node` lives until after the call.
        let code = unsafe {
            let hints = (library.fi_dupinfo)(null());
            if hints.is_null() {
                return Err(Error::system("libfabric: asking for providers", Errno::ENOMEM));
            }
            (*hints).caps = FI_MSG | FI_RMA;
            (*hints).mode = FI_CONTEXT | FI_CONTEXT2;
            (*(*hints).ep_attr).ep_type = FI_EP_RDM;
            let domain = &mut *(*hints).domain_attr;
            (domain.mr_mode, domain.threading, domain.resource_mgmt) = (MR_MODE, FI_THREAD_DOMAIN, FI_RM_ENABLED);
            domain.cq_data_size = size_of::<u32>();
            (*(*hints).fabric_attr).prov_name = libc::strdup(name.as_ptr());
            let node_text = node.as_ref().map_or(null(), |node| node.as_ptr());
            let flags = if node.is_some() { FI_SOURCE } else { 0 };
            let code = (library.fi_getinfo)(library.api_version, node_text, null(), flags, hints, &mut found);
            (library.fi_freeinfo)(hints);
            code
        };
        if code != 0 || found.is_null() {
            let at = source.map_or(String::new(), |source| format!(" at {source}"));
            let why = library.text(code as isize);
            return Err(Error::unsupported(format!("libfabric has no provider {provider}{at} here ({why})")));
        }
        Ok(found)
    }

    fn assemble(&mut self, failed: &dyn Fn(&str, c_int) -> Result<()>) -> Result<()> {
        let Domain { domain, info, .. } = *self.domain;
        // SAFETY: domain and info are open for as long as `self.domain`; attributes live through each call; every object
        // is checked before it is used, and closed by `drop` if a later step fails.
        unsafe {
            let ops = &*(*domain).ops;
            let most = (*(*info).domain_attr).cq_cnt;
            let mut queue = fi_cq_attr {
                size: if most == 0 { MAX_COMPLETIONS } else { most.min(MAX_COMPLETIONS) },
                flags: 0,
                format: FI_CQ_FORMAT_DATA,
                wait_obj: FI_WAIT_FD,
                signaling_vector: 0,
                wait_cond: 0,
                wait_set: null_mut(),
            };
            if (ops.cq_open)(domain, &mut queue, &mut self.completions, null_mut()) != 0 {
                queue.wait_obj = FI_WAIT_NONE;
                let code = (ops.cq_open)(domain, &mut queue, &mut self.completions, null_mut());
                failed("opening the completion queue", code)?;
            }
            let mut table: fi_av_attr = std::mem::zeroed();
            table.av_type = FI_AV_TABLE;
            failed("opening the address table", (ops.av_open)(domain, &mut table, &mut self.addresses, null_mut()))?;
            failed("opening the endpoint", (ops.endpoint)(domain, info, &mut self.endpoint, null_mut()))?;
            let endpoint: *mut fid = self.endpoint.cast();
            let bind = (*(*endpoint).ops).bind;
            failed("binding the address table", bind(endpoint, self.addresses.cast(), 0))?;
            failed("binding the completion queue", bind(endpoint, self.completions.cast(), FI_TRANSMIT | FI_RECV))?;
            failed("enabling the endpoint", ((*(*endpoint).ops).control)(endpoint, FI_ENABLE, null_mut()))?;

            let mut name = Name([0; MAX_ADDRESS_BYTES / 8 + 1]);
            let mut len_bytes = MAX_ADDRESS_BYTES;
            let getname = (*(*self.endpoint).cm).getname;
            failed("asking for the address", getname(endpoint, name.0.as_mut_ptr().cast(), &mut len_bytes))?;
            self.name = bytemuck::bytes_of(&name.0)[..len_bytes.min(MAX_ADDRESS_BYTES)].to_vec();

            if queue.wait_obj == FI_WAIT_FD {
                let mut fd: RawFd = -1;
                let queue: *mut fid = self.completions.cast();
                let code = ((*(*queue).ops).control)(queue, FI_GETWAIT, (&raw mut fd).cast());
                if code == 0 && fd >= 0 {
                    // Borrowed from the queue, which is open.
                    self.wait = BorrowedFd::borrow_raw(fd).try_clone_to_owned().ok();
                }
            }
        }
        Ok(())
    }

    /// What peers need to reach this endpoint.
    pub(super) fn address(&self) -> &[u8] {
        &self.name
    }

    /// A descriptor that can be read when the queue has something, once [`Device::may_sleep`] has allowed it.
    pub(super) fn wait_fd(&self) -> Option<OwnedFd> {
        self.wait.as_ref().and_then(|fd| fd.try_clone().ok())
    }

    /// The most bytes of one write.
    pub(super) fn max_write_bytes(&self) -> usize {
        self.max_write_bytes
    }

    /// True when a write's source must be registered.
    pub(super) fn wants_local(&self) -> bool {
        self.mr_mode & FI_MR_LOCAL != 0
    }

    /// Makes a peer's endpoint known.
    pub(super) fn insert(&mut self, address: &[u8]) -> Result<Peer> {
        if address.is_empty() || address.len() > MAX_ADDRESS_BYTES {
            return Err(Error::bootstrap(format!("an endpoint's address of {} bytes", address.len())));
        }
        // Longer than any address, and zero behind it: whatever it says of its own length, nothing outside is read.
        let mut name = Name([0; MAX_ADDRESS_BYTES / 8 + 1]);
        bytemuck::bytes_of_mut(&mut name.0)[..address.len()].copy_from_slice(address);
        let mut peer = fi_addr_t::MAX;
        // SAFETY: table open; `name` outlives the call and holds one address; one result is written.
        let inserted = unsafe {
            ((*(*self.addresses).ops).insert)(self.addresses, name.0.as_ptr().cast(), 1, &mut peer, 0, null_mut())
        };
        match inserted {
            1 => Ok(Peer(peer)),
            code => Err(self.domain.library.error("taking in a peer's address", code as isize)),
        }
    }

    /// Memory of its own, for writes out of it or, with `remote`, by peers into it.
    pub(super) fn register(&mut self, len_bytes: usize, remote: bool) -> Result<Region> {
        let block = Block::new(len_bytes.next_multiple_of(8) + PAGE_BYTES);
        let skipped_bytes = block.span().addr().wrapping_neg() % PAGE_BYTES;
        let span = block.span().cut(skipped_bytes, len_bytes);
        let virtual_addresses = self.mr_mode & FI_MR_VIRT_ADDR != 0;
        let mut region = Region {
            mr: null_mut(),
            block,
            skipped_bytes,
            len_bytes,
            base: if virtual_addresses { span.addr() as u64 } else { 0 },
            _domain: self.domain.clone(),
        };
        if !remote && !self.wants_local() {
            return Ok(region);
        }
        let access = if remote { FI_REMOTE_WRITE } else { FI_WRITE };
        // Random keys: who was not told one does not guess it. Some providers choose their own.
        for _ in 0..8 {
            let key = getrandom::u64().map_err(|error| Error::bootstrap(format!("drawing a key: {error}")))?;
            let key = if self.mr_mode & FI_MR_PROV_KEY != 0 { 0 } else { key >> (u64::BITS - self.key_bits) };
            let domain = self.domain.domain;
            // SAFETY: the domain is open; the memory is the region's own and stays until the region is closed.
            let code = unsafe {
                ((*(*domain).mr).reg)(
                    domain.cast(),
                    span.as_ptr().cast(),
                    len_bytes,
                    access,
                    0,
                    key,
                    0,
                    &mut region.mr,
                    null_mut(),
                )
            };
            match code {
                0 => return Ok(region),
                // Another region has this key.
                code if code == -FI_ENOKEY && self.mr_mode & FI_MR_PROV_KEY == 0 => region.mr = null_mut(),
                code => {
                    region.mr = null_mut();
                    let limit = if code == -(Errno::ENOMEM as c_int) { "; see `ulimit -l`" } else { "" };
                    let what = format!("registering {len_bytes} bytes{limit}");
                    return Err(self.domain.library.error(&what, code as isize));
                }
            }
        }
        Err(Error::bootstrap("libfabric refuses all keys for memory"))
    }

    /// Begins to write `len_bytes` of `source`, from `offset_bytes` on, to `target`, with these bits. The ticket comes back
    /// in an event; `None` when there is no room now: read the completions, and try again.
    pub(super) fn write(
        &mut self,
        source: &Arc<Region>,
        offset_bytes: usize,
        len_bytes: usize,
        target: Target,
        bits: u32,
    ) -> Result<Option<usize>> {
        let Some(&ticket) = self.free.last() else { return Ok(None) };
        let from = source.span().cut(offset_bytes, len_bytes);
        let context = self.contexts[ticket].0.get();
        // SAFETY: endpoint open; `from` is inside the source, which `sources` keeps until the write is complete or the
        // endpoint closed; the context is this ticket's, which is free.
        let code = unsafe {
            ((*(*self.endpoint).rma).writedata)(
                self.endpoint,
                from.as_ptr().cast(),
                len_bytes,
                source.descriptor(),
                bits.into(),
                target.peer.0,
                target.addr,
                target.key,
                context.cast(),
            )
        };
        match code {
            0 => {
                self.free.pop();
                self.sources[ticket] = Some(source.clone());
                Ok(Some(ticket))
            }
            EAGAIN => Ok(None),
            code => Err(self.domain.library.error("writing", code)),
        }
    }

    /// Makes progress, and takes what the queue holds, up to a few; how many.
    pub(super) fn read(&mut self, into: &mut Vec<Event>) -> Result<usize> {
        // SAFETY: plain words, for which zero is a value.
        let mut entries: [fi_cq_data_entry; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: queue open; it was opened for entries of this layout, and there is room for so many.
        let got = unsafe { ((*(*self.completions).ops).read)(self.completions, entries.as_mut_ptr().cast(), BATCH) };
        if got == EAGAIN || got == 0 {
            return Ok(0);
        }
        if got == -(FI_EAVAIL as isize) {
            return self.read_error(into);
        }
        let Ok(count) = usize::try_from(got) else {
            return Err(self.domain.library.error("reading completions", got));
        };
        for entry in &entries[..count.min(BATCH)] {
            // Which of the two it is providers say in flags that differ; only our own writes have contexts of ours.
            match self.settle(entry.op_context) {
                Some(ticket) => into.push(Event::Done(ticket)),
                None if entry.flags & FI_REMOTE_CQ_DATA != 0 => into.push(Event::Arrived(entry.data as u32)),
                None => {}
            }
        }
        Ok(count)
    }

    fn read_error(&mut self, into: &mut Vec<Event>) -> Result<usize> {
        // SAFETY: plain words, for which zero is a value; no room for the provider's own details.
        let mut entry: fi_cq_err_entry = unsafe { std::mem::zeroed() };
        // SAFETY: queue open; the entry has this layout or, in later versions, one that fits into its spare words.
        let got = unsafe { ((*(*self.completions).ops).readerr)(self.completions, &mut entry, 0) };
        if got == EAGAIN || got == 0 {
            return Ok(0);
        }
        if got < 0 {
            return Err(self.domain.library.error("reading a failed completion", got));
        }
        let why = self.domain.library.text(entry.err as isize);
        match self.settle(entry.op_context) {
            Some(ticket) => into.push(Event::Failed(ticket, why)),
            None => tracing::debug!("libfabric reports an error of no write of ours: {why}"),
        }
        Ok(1)
    }

    /// The ticket of a context, which is free from now on; `None` if it is no write under way.
    fn settle(&mut self, context: *mut c_void) -> Option<usize> {
        let offset = (context as usize).wrapping_sub(self.contexts.as_ptr() as usize);
        let ticket = offset / size_of::<Context>();
        if context.is_null() || ticket >= self.contexts.len() || !offset.is_multiple_of(size_of::<Context>()) {
            return None;
        }
        self.sources[ticket].take()?;
        self.free.push(ticket);
        Some(ticket)
    }

    /// Asks the library to make the wait descriptor ready at the next completion. False when there may be one already
    /// (read again), and where there is no such descriptor.
    pub(super) fn may_sleep(&mut self) -> bool {
        if self.wait.is_none() {
            // Some providers follow a pointer there that they never set.
            return false;
        }
        let fabric = self.domain.fabric;
        let mut queue: *mut fid = self.completions.cast();
        // SAFETY: fabric and queue open; one object is named.
        unsafe { ((*(*fabric).ops).trywait)(fabric, &mut queue, 1) == 0 }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: opened in `assemble` and closed only here, the endpoint before what it is bound to. After that nothing
        // reads the sources of writes any more.
        unsafe {
            close(self.endpoint.cast());
            close(self.completions.cast());
            close(self.addresses.cast());
        }
    }
}
