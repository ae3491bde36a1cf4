//! Where the programs under test are: the product's binaries beside the test executable, servers in Debian's place or
//! in the cache that `tests/tools` fills, all of them reachable for the account that runs them.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::Account;

/// The product's binary `name` (`pitr` or `pitr-agent`), which cargo put beside this test executable. `PITR_BIN_DIR`
/// names another directory.
///
/// # Errors
/// It was not built.
pub fn product(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("PITR_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => profile_directory()?,
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is missing; build it with: cargo build --workspace --bins{}",
        path.display(),
        if directory.ends_with("release") { " --release" } else { "" }
    );
    reachable(&path)
}

fn profile_directory() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let directory = executable.parent().context("the test executable has no directory")?;
    let directory = if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    Ok(directory.to_owned())
}

/// The `bin` directory of a PostgreSQL major version. `PITR_PG_17=/path/bin` names another one.
///
/// # Errors
/// It is not installed; the message says with which command it will be.
pub fn postgres_bin(major: u32) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(format!("PITR_PG_{major}")) {
        return Ok(PathBuf::from(directory));
    }
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").is_file() {
        return Ok(debian);
    }
    let tree = cache()?.join("postgres").join(format!("current-{major}"));
    let Ok(tree) = fs::canonicalize(&tree) else {
        bail!("PostgreSQL {major} is not installed; run: tests/tools/install-postgres.sh {major}");
    };
    Ok(reachable(&tree)?.join("bin"))
}

/// The S3 server's program. `PITR_WEED` names another one.
///
/// # Errors
/// It is not installed; the message says with which command it will be.
pub fn weed() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PITR_WEED") {
        return Ok(PathBuf::from(path));
    }
    let tree = cache()?.join("seaweedfs");
    let Ok(tree) = fs::canonicalize(&tree) else {
        bail!("SeaweedFS is not installed; run: tests/tools/install-s3.sh");
    };
    Ok(reachable(&tree)?.join("weed"))
}

fn cache() -> Result<PathBuf> {
    let set = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(cache) = set("PITR_CACHE") {
        return Ok(cache);
    }
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.context("neither PITR_CACHE nor HOME is set")?.join("pitr"))
}

/// `path` itself where the servers' account can run it, else a copy in the temporary directory: root's home, with the
/// cache and often the checkout in it, is closed to everybody else. Copies are kept for the next run, keyed by where
/// they come from, size and time.
fn reachable(path: &Path) -> Result<PathBuf> {
    let account = Account::of_servers()?;
    if account.can_run(path) {
        return Ok(path.to_owned());
    }
    let stage = stage_directory()?;
    let found = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let name = path.file_name().and_then(OsStr::to_str).context("a program without a name")?;
    let mut origin = DefaultHasher::new();
    path.hash(&mut origin);
    let prefix = format!("{name}-{:016x}-", origin.finish());
    let key = format!("{prefix}{}-{}-{}", found.len(), found.mtime(), found.mtime_nsec());
    let place = stage.join(key).join(name);
    if !place.exists() {
        copy_into(path, &stage, &place)?;
        remove_older(&stage, &prefix, &place);
    }
    ensure!(account.can_run(&place), "{} can't be run by \"{}\"", place.display(), account.name());
    Ok(place)
}

fn stage_directory() -> Result<PathBuf> {
    let uid = nix::unistd::Uid::effective();
    let stage = std::env::temp_dir().join(format!("pitr-stage-{uid}"));
    match fs::create_dir(&stage) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let found = fs::symlink_metadata(&stage)?;
    ensure!(found.is_dir() && found.uid() == uid.as_raw(), "{} belongs to somebody else", stage.display());
    fs::set_permissions(&stage, fs::Permissions::from_mode(0o755))?;
    Ok(stage)
}

/// Copied under a name of its own and published with a rename, because tests run side by side.
fn copy_into(path: &Path, stage: &Path, place: &Path) -> Result<()> {
    let work =
        tempfile::Builder::new().prefix(".copy-").permissions(fs::Permissions::from_mode(0o755)).tempdir_in(stage)?;
    let status = Command::new("cp").arg("-a").arg("--").arg(path).arg(work.path()).status()?;
    ensure!(status.success(), "copying {} failed", path.display());
    let directory = place.parent().context("a place without a directory")?;
    #[expect(clippy::disallowed_methods, reason = "a scratch copy: nothing has to survive a crash")]
    let published = fs::rename(work.path(), directory);
    match published {
        Ok(()) => {
            let _published = work.keep();
            Ok(())
        }
        // Another test was quicker.
        Err(_) if place.exists() => Ok(()),
        Err(error) => Err(error).with_context(|| format!("put {} in place", place.display())),
    }
}

/// Copies of earlier builds of the same file, except recent ones, which a running test may still use.
fn remove_older(stage: &Path, prefix: &str, place: &Path) {
    let current = place.parent();
    for entry in fs::read_dir(stage).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 3600));
        if old && entry.file_name().to_string_lossy().starts_with(prefix) && Some(entry.path().as_path()) != current {
            // Only space is lost when this fails.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
