//! Binary forms of what goes over the wire often, so that the server neither writes nor parses text for each row.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::snapshot::Snapshot;

/// Microseconds from 1970 to 2000, where PostgreSQL's clock starts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Microseconds in a second.
const SECOND_MICROS: i64 = 1_000_000;

/// As `pg_snapshot_recv` takes it.
impl ToSql for Snapshot {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32(i32::try_from(self.xip.len())?);
        out.put_u64(self.xmin);
        out.put_u64(self.xmax);
        self.xip.iter().for_each(|&xid| out.put_u64(xid));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::PG_SNAPSHOT
    }

    to_sql_checked!();
}

/// A `uuid`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawUuid([u8; 16]);

impl<'a> FromSql<'a> for RawUuid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

impl RawUuid {
    /// As the server writes it: lower-case, with hyphens.
    pub(crate) fn text(self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(36);
        for (place, byte) in self.0.into_iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }
}

/// A `timestamptz`, in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTime(i64);

impl<'a> FromSql<'a> for RawTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?).saturating_add(EPOCH_MICROS)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// Writes times; most are in the same second as the one before, whose text is kept.
#[derive(Debug, Default)]
pub(crate) struct TimeWriter {
    second: Option<i64>,
    text: String,
}

impl TimeWriter {
    /// RFC 3339 in UTC, with microseconds.
    pub(crate) fn text(&mut self, time: RawTime) -> String {
        let (second, micros) = (time.0.div_euclid(SECOND_MICROS), time.0.rem_euclid(SECOND_MICROS));
        if self.second != Some(second) {
            let at = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX);
            self.text = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        format!("{}.{micros:06}Z", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::Fixture;

    #[test]
    fn times_are_rfc_3339() {
        let mut writer = TimeWriter::default();
        for (micros, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (946_684_800_000_001, "2000-01-01T00:00:00.000001Z"),
            (946_684_800_999_999, "2000-01-01T00:00:00.999999Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (1_709_210_096_007_000, "2024-02-29T12:34:56.007000Z"),
        ] {
            assert_eq!(writer.text(RawTime(micros)), expected);
        }
    }

    #[tokio::test]
    async fn binary_forms_mean_what_the_texts_mean() {
        let fixture = Fixture::new("").await;
        let client = fixture.session.client();
        for text in ["10:20:10,14,15", "1:1:", "4294967297:4294967300:4294967299"] {
            let snapshot: Snapshot = text.parse().unwrap();
            let row = client.query_one("SELECT $1::pg_snapshot::text", &[&snapshot]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), text);
        }
        let sql = "SELECT u, u::text, t, to_char(t, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                     FROM (SELECT gen_random_uuid() AS u, clock_timestamp() AS t) r";
        let row = client.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, RawUuid>(0).text(), row.get::<_, &str>(1));
        assert_eq!(TimeWriter::default().text(row.get(2)), row.get::<_, &str>(3));
    }
}
