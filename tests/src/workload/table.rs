//! Tables of the load: every kind of index, columns that go to TOAST, a sequence.

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt};

/// A table, and the indexes that it has.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) logged: bool,
}

impl Table {
    /// The statements that make it.
    pub(super) fn create(&self, rng: &mut StdRng, space: &str) -> String {
        let name = &self.name;
        let unlogged = if self.logged { "" } else { "UNLOGGED " };
        let fill = [100, 90, 60][rng.random_range(0..3)];
        let mut sql = format!(
            "CREATE {unlogged}TABLE {name} (id bigserial, k int NOT NULL, pad text, words int[], spot point, big text) \
             WITH (fillfactor = {fill}) TABLESPACE {space}; \
             ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL; \
             CREATE UNIQUE INDEX {name}_id ON {name} (id);"
        );
        let fast = if rng.random_bool(0.5) { "on" } else { "off" };
        let kinds = [
            format!("CREATE INDEX {name}_hash ON {name} USING hash (k);"),
            format!("CREATE INDEX {name}_gin ON {name} USING gin (words) WITH (fastupdate = {fast});"),
            format!("CREATE INDEX {name}_gist ON {name} USING gist (spot);"),
            format!(
                "CREATE INDEX {name}_brin ON {name} USING brin (id) WITH (pages_per_range = 4, autosummarize = off);"
            ),
            format!("CREATE INDEX {name}_quad ON {name} USING spgist (spot);"),
            format!("CREATE INDEX {name}_radix ON {name} USING spgist (pad) TABLESPACE {space};"),
            format!("CREATE INDEX {name}_pad ON {name} (pad, k);"),
        ];
        // Each kind in half of the tables.
        let chosen = rng.next_u32();
        for (bit, kind) in kinds.iter().enumerate() {
            if chosen >> bit & 1 == 1 {
                sql.push_str(kind);
            }
        }
        sql
    }

    /// A query that gives `rows` rows, the same ones for the same salt.
    pub(super) fn rows(rows: u32, salt: u32) -> String {
        format!(
            "SELECT (g * 7919 + {salt}) % 9973 AS k, md5(g::text || '{salt}') AS pad, \
             ARRAY[g % 17, g % 101, {salt} % 1009] AS words, point(g % 313, (g * 31 + {salt} % 97) % 211) AS spot, \
             CASE WHEN g % 53 = 0 THEN (SELECT string_agg(md5((g * i)::text || '{salt}'), '') FROM generate_series(1, 90) i) \
             ELSE 'b' || g END AS big FROM generate_series(1, {rows}) AS g"
        )
    }
}
