//! Standbys, made with the low-level backup functions and a plain copy: the builds of other majors have no
//! `pg_basebackup`, and it refuses servers newer than itself.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Postgres;
use super::server::run;
use crate::{Account, wait};

impl Postgres {
    /// Makes and starts a streaming standby of this server.
    ///
    /// # Errors
    /// The copy fails or the standby does not come up.
    pub async fn standby(&self) -> Result<Self> {
        let mut standby = Self::prepare(self.options.clone())?;
        let session = self.connect().await?;
        let (start, stop) = if self.options.major < 15 {
            ("SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)")
        } else {
            ("SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)")
        };
        session.value(start).await?;
        let account = Account::of_servers()?;
        // Files vanish and change while they are copied, which is what replay repairs.
        let copied = account.command("cp").arg("-a").arg(&self.data).arg(&standby.data).output()?;
        let label = session.value(stop).await?;
        ensure!(standby.data.join("global/pg_control").exists(), "{}", String::from_utf8_lossy(&copied.stderr));
        for name in ["postmaster.pid", "postmaster.opts"] {
            // The copy may not have met them.
            let _ = fs::remove_file(standby.data.join(name));
        }
        run(account.command("sh").arg("-c").arg("rm -rf \"$0\"/pg_wal/0* \"$0\"/pg_replslot/*").arg(&standby.data))?;
        for (name, content) in [("backup_label", label.as_str()), ("standby.signal", "")] {
            let path = standby.data.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            account.own(&path)?;
        }
        standby.append_conf(&format!("primary_conninfo = '{}'", self.connection_string()))?;
        standby.run().await?;
        Ok(standby)
    }

    /// Another server from a copy of this one, which must not run. Has the same system identifier.
    ///
    /// # Errors
    /// The copy fails or does not start.
    pub async fn twin(&self) -> Result<Self> {
        let mut twin = Self::prepare(self.options.clone())?;
        run(Account::of_servers()?.command("cp").arg("-a").arg(&self.data).arg(&twin.data))?;
        twin.run().await?;
        Ok(twin)
    }

    /// Waits until this standby has replayed all that `primary` has written.
    ///
    /// # Errors
    /// It has not within a minute.
    pub async fn catch_up_with(&self, primary: &Self) -> Result<()> {
        let target = primary.value("SELECT pg_current_wal_flush_lsn()").await?;
        let session = self.connect().await?;
        wait::until(format!("the standby replays up to {target}"), Duration::from_mins(1), async || {
            let reached = session.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn")).await?;
            Ok((reached == "t").then_some(()))
        })
        .await
    }
}
