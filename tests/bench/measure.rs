//! Wall time, CPU time and peak memory of a process and its children, from /proc.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Between two looks at memory.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Sample {
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    /// Of all processes of the tool together; pages that they share count once (PSS).
    pub peak_memory_bytes: u64,
    /// What the backup takes in the repository; 0 for a restore.
    pub repository_bytes: u64,
}

/// Runs a command to its end.
pub fn command(mut command: Command) -> Result<Sample> {
    let line = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (cpu, start) = (waited_children_ticks()?, Instant::now());
    let child = command.spawn().with_context(|| format!("start {line}"))?;
    let memory = MemoryWatch::over(child.id());
    let output = child.wait_with_output()?;
    let wall_seconds = start.elapsed().as_secs_f64();
    let peak_memory_bytes = memory.finish();
    ensure!(
        output.status.success(),
        "{line}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let cpu_seconds = seconds(waited_children_ticks()? - cpu);
    Ok(Sample { wall_seconds, cpu_seconds, peak_memory_bytes, repository_bytes: 0 })
}

/// What a running daemon uses while `work` is done.
pub async fn daemon<T>(pid: u32, work: impl Future<Output = Result<T>>) -> Result<(Sample, T)> {
    let (cpu, start) = (own_ticks(pid)?, Instant::now());
    let memory = MemoryWatch::over(pid);
    let result = work.await;
    let wall_seconds = start.elapsed().as_secs_f64();
    let peak_memory_bytes = memory.finish();
    let cpu_seconds = seconds(own_ticks(pid)? - cpu);
    Ok((Sample { wall_seconds, cpu_seconds, peak_memory_bytes, repository_bytes: 0 }, result?))
}

/// CPU time of a process since it began.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    own_ticks(pid).map(seconds)
}

/// The most memory that a process has had, in MiB.
pub fn peak_resident_bytes(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0);
    kilobytes / 1024.0
}

/// CPU time of all processes that begin below this one from now on, also of those that their parents leave behind: they
/// become our children.
pub struct Orphans {
    ticks: u64,
    children: Vec<u32>,
}

impl Orphans {
    pub fn adopt() -> Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Self { ticks: waited_children_ticks()?, children: children_of(std::process::id()) })
    }

    /// Waits for them to end.
    pub fn seconds(self) -> Result<f64> {
        let begun = Instant::now();
        loop {
            let new: Vec<u32> =
                children_of(std::process::id()).into_iter().filter(|pid| !self.children.contains(pid)).collect();
            for &pid in &new {
                // One that still runs is looked at again.
                let _ = waitpid(Pid::from_raw(i32::try_from(pid)?), Some(WaitPidFlag::WNOHANG));
            }
            if new.is_empty() || begun.elapsed() > Duration::from_secs(20) {
                return Ok(seconds(waited_children_ticks()?.saturating_sub(self.ticks)));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| stat(pid).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) == Some(parent)).collect()
}

/// Watches the memory of a process and its descendants until it is told to stop.
struct MemoryWatch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    watcher: JoinHandle<()>,
}

impl MemoryWatch {
    fn over(root: u32) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let watcher = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(tree(root).iter().map(|&pid| proportional_bytes(pid)).sum(), Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
        });
        Self { stop, peak, watcher }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // It has nothing to panic about; the peak so far counts in any case.
        let _ = self.watcher.join();
        self.peak.load(Ordering::Relaxed)
    }
}

/// A process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    found
}

fn proportional_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kilobytes * 1024
}

/// The fields of /proc/PID/stat after the name: state, parent, ...
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(ToOwned::to_owned).collect())
}

/// CPU time of a process, user and system.
fn own_ticks(pid: u32) -> Result<u64> {
    ticks(pid, [11, 12])
}

/// CPU time of all children of this process that have ended, and of those below them.
fn waited_children_ticks() -> Result<u64> {
    ticks(std::process::id(), [13, 14])
}

fn ticks(pid: u32, fields: [usize; 2]) -> Result<u64> {
    let found = stat(pid).with_context(|| format!("process {pid} is gone"))?;
    let field = |index: usize| -> Result<u64> { Ok(found.get(index).context("stat is too short")?.parse()?) };
    Ok(field(fields[0])? + field(fields[1])?)
}

#[expect(clippy::cast_precision_loss, reason = "CPU times are far below 2^52 ticks")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
