//! How values stand in the stored form, where text would be wasteful: positions as numbers, times as microseconds. In
//! JSON they keep the form that people read.

pub mod lsn {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::postgres::Lsn;

    pub fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { lsn.serialize(serializer) } else { serializer.serialize_u64(lsn.as_u64()) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        if deserializer.is_human_readable() {
            Lsn::deserialize(deserializer)
        } else {
            u64::deserialize(deserializer).map(Lsn::new)
        }
    }
}

pub mod time {
    use chrono::{DateTime, Utc};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::postgres::time::{from_postgres_microseconds, to_postgres_microseconds};

    pub fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            time.serialize(serializer)
        } else {
            serializer.serialize_i64(to_postgres_microseconds(*time))
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
        if deserializer.is_human_readable() {
            DateTime::deserialize(deserializer)
        } else {
            let microseconds = i64::deserialize(deserializer)?;
            from_postgres_microseconds(microseconds).ok_or_else(|| D::Error::custom("time out of range"))
        }
    }
}

pub mod major {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::postgres::MajorVersion;

    pub fn serialize<S: Serializer>(major: &MajorVersion, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(major.as_u16())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MajorVersion, D::Error> {
        let number = u16::deserialize(deserializer)?;
        MajorVersion::from_number(number.into()).ok_or_else(|| D::Error::custom("unknown major version"))
    }
}
