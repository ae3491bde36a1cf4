//! One pack in memory, held against itself and against what maps say of it. Pure.

use zstd::zstd_safe::{self, DCtx};

use super::packs::FaultScope;
use super::pages::PageFault;
use crate::postgres::PAGE_SIZE;
use crate::postgres::page::{Page, PageVerdict, verify_page};
use crate::repository::backup::PackId;
use crate::repository::backup::pack::{self, FOOTER_BYTES, FRAME_BYTES, Footer, PackedFrame};
use crate::repository::envelope;
use crate::repository::hash::{BlockHash, FrameHash};

/// A run of bytes that some map says is in a frame. By place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExpectedRun {
    pub(super) offset: u64,
    pub(super) at: u32,
    pub(super) bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) hash: FrameHash,
    /// Of pages whose checksums are to be checked: the number of the first block.
    pub(super) first_block: Option<u32>,
}

/// What is wrong with a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundFault {
    pub(super) offset: Option<u64>,
    pub(super) scope: FaultScope,
    pub(super) reason: String,
}

impl FoundFault {
    fn whole(offset: Option<u64>, reason: impl Into<String>) -> Self {
        Self { offset, scope: FaultScope::Whole, reason: reason.into() }
    }

    fn frame(offset: u64, reason: impl Into<String>) -> Self {
        Self { offset: Some(offset), scope: FaultScope::Frame { offset }, reason: reason.into() }
    }
}

/// What a thread keeps between packs.
pub(super) struct PackChecker {
    context: DCtx<'static>,
    plain: Vec<u8>,
}

impl PackChecker {
    pub(super) fn new() -> Self {
        Self { context: DCtx::create(), plain: Vec::with_capacity(FRAME_BYTES) }
    }

    /// Every byte of the pack `id`: header, frames one behind the other, table, footer. `expected` in order.
    pub(super) fn check(&mut self, id: &PackId, bytes: &[u8], expected: &[ExpectedRun]) -> Vec<FoundFault> {
        let mut faults = Vec::new();
        let begin = match envelope::open::<pack::PackHeader>(bytes) {
            Ok((header, _)) if header.id == *id => envelope::header_bytes(bytes).unwrap_or_default(),
            Ok((header, _)) => {
                faults.push(FoundFault::whole(Some(0), format!("is pack {}", header.id)));
                return faults;
            }
            Err(error) => {
                faults.push(FoundFault::whole(Some(0), format!("has a header that cannot be used: {error}")));
                return faults;
            }
        };
        let (frames, end) = match table(bytes) {
            Ok(table) => table,
            Err(fault) => {
                faults.push(fault);
                return faults;
            }
        };
        let mut position = begin as u64;
        let mut expected = expected;
        for frame in &frames {
            if frame.offset != position {
                let reason = format!("has a frame at byte {} where byte {position} should go on", frame.offset);
                faults.push(FoundFault::whole(Some(position), reason));
                return faults;
            }
            position = position.saturating_add(u64::from(frame.stored_bytes));
            let stray = expected.iter().take_while(|run| run.offset < frame.offset).count();
            let (strays, rest) = expected.split_at(stray);
            faults.extend(strays.iter().map(not_there));
            let own = rest.iter().take_while(|run| run.offset == frame.offset).count();
            let (runs, rest) = rest.split_at(own);
            expected = rest;
            self.check_frame(id, bytes, frame, runs, &mut faults);
        }
        faults.extend(expected.iter().map(not_there));
        if position != end as u64 {
            faults.push(FoundFault::whole(Some(position), "has bytes between its last frame and its table"));
        }
        faults
    }

    fn check_frame(
        &mut self,
        id: &PackId,
        bytes: &[u8],
        frame: &PackedFrame,
        runs: &[ExpectedRun],
        faults: &mut Vec<FoundFault>,
    ) {
        if let Err(reason) = self.decompress(bytes, frame) {
            faults.push(FoundFault::frame(frame.offset, reason));
            return;
        }
        let hash = frame.hash();
        for run in runs {
            let end = u64::from(run.at) + u64::from(run.bytes);
            if run.hash != hash || run.stored_bytes != frame.stored_bytes || end > u64::from(frame.plain_bytes) {
                let reason = format!("has a frame at byte {} that is not the one that a file map names", frame.offset);
                faults.push(FoundFault::frame(frame.offset, reason));
                return;
            }
        }
        for run in runs {
            self.check_pages(id, frame, run, faults);
        }
    }

    fn decompress(&mut self, bytes: &[u8], frame: &PackedFrame) -> Result<(), String> {
        let at = frame.offset;
        let stored = usize::try_from(at)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(frame.stored_bytes as usize)?))
            .ok_or_else(|| format!("has a frame at byte {at} that goes on behind its end"))?;
        if zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
            return Err(format!("has a frame at byte {at} that is not one whole zstd frame"));
        }
        self.plain.clear();
        self.context.decompress(&mut self.plain, stored).map_err(|code| {
            format!("has a frame at byte {at} that cannot be decompressed: {}", zstd_safe::get_error_name(code))
        })?;
        if self.plain.len() as u64 != u64::from(frame.plain_bytes) {
            return Err(format!(
                "has a frame at byte {at} of {} bytes, its table says {}",
                self.plain.len(),
                frame.plain_bytes
            ));
        }
        let mut rest = self.plain.as_slice();
        for (nth, block) in frame.blocks.iter().enumerate() {
            let (own, after) = rest
                .split_at_checked(usize::from(block.bytes))
                .ok_or_else(|| format!("has a frame at byte {at} with fewer blocks than its table says"))?;
            if BlockHash::of(own) != block.hash {
                return Err(format!("has a frame at byte {at} in which block {nth} is not what its hash says"));
            }
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("has a frame at byte {at} that its blocks do not fill")) }
    }

    fn check_pages(&self, id: &PackId, frame: &PackedFrame, run: &ExpectedRun, faults: &mut Vec<FoundFault>) {
        let Some(first) = run.first_block else { return };
        let content = self.plain.get(run.at as usize..(run.at as usize).saturating_add(run.bytes as usize));
        let (pages, _) = content.unwrap_or_default().as_chunks::<PAGE_SIZE>();
        for (nth, page) in (0_u32..).zip(pages) {
            let block = first.wrapping_add(nth);
            let page: &Page = page;
            if let PageVerdict::Invalid { lsn, .. } = verify_page(page, block) {
                let at = run.at + nth * PAGE_SIZE as u32;
                let page = PageFault { pack: id.clone(), offset: frame.offset, at, block, lsn };
                let reason = format!("holds block {block} with a page checksum that does not match");
                faults.push(FoundFault { offset: Some(frame.offset), scope: FaultScope::Page(page), reason });
            }
        }
    }
}

fn not_there(run: &ExpectedRun) -> FoundFault {
    FoundFault::frame(run.offset, format!("has no frame at byte {}, which a file map names", run.offset))
}

/// The frames by the table at the end, and where the skippable frame that holds it begins.
fn table(bytes: &[u8]) -> Result<(Vec<PackedFrame>, usize), FoundFault> {
    let fault = |error: pack::PackError| FoundFault::whole(Some(bytes.len() as u64), error.to_string());
    let odd = |reason: &str| FoundFault::whole(Some(bytes.len() as u64), reason);
    let footer = Footer::parse(bytes).map_err(fault)?;
    let content_bytes = footer.table_bytes().saturating_add(FOOTER_BYTES as u64);
    let begin = usize::try_from(content_bytes)
        .ok()
        .and_then(|content| bytes.len().checked_sub(content)?.checked_sub(envelope::PREFIX_BYTES))
        .ok_or_else(|| odd("states a table that it cannot hold"))?;
    let last = bytes.get(begin..).unwrap_or_default();
    let total = envelope::skippable_bytes(last).ok_or_else(|| odd("has a table that is no skippable frame"))?;
    if total != last.len() {
        return Err(odd("has a table that is not the last of its bytes"));
    }
    let table = last.get(envelope::PREFIX_BYTES..last.len().saturating_sub(FOOTER_BYTES)).unwrap_or_default();
    Ok((footer.table(table).map_err(fault)?, begin))
}
