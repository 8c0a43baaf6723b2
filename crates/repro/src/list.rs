//! All rows.

use crate::Row;

/// Hands the path of each row to a macro, after what else it is to get.
#[macro_export]
macro_rules! for_each_row {
    ($callback:ident { $($head:tt)* }) => {
        $callback! {
            $($head)*
            capture::insert_fails,
            capture::delete_without_id,
            capture::payload_too_long,
            capture::prepared_transaction,
            capture::writer_without_rights,
            capture::install_race,
            cursor::bare_serial,
            cursor::position_from_now,
            cursor::later_snapshot,
            cursor::other_cluster,
            wake_up::nobody_listens,
            wake_up::reconnect_gap,
            wake_up::listen_forgotten,
            wake_up::garbage_kills,
            wake_up::handled_twice,
            leases::renewed_by_anyone,
            leases::ttl_equals_interval,
            leases::trust_from_answer,
            leases::resigns_any_term,
            leases::leads_on_error,
            leases::never_told,
            leases::writes_after_loss,
            leases::identity_is_host_name,
            leases::node_clocks,
            sessions::shared_pool,
            sessions::grant_dropped,
            sessions::lock_behind_pooler,
            sessions::begin_dropped,
            sessions::locked_for_hours,
            delivery::position_too_early,
            delivery::shared_position,
            delivery::unmarked_repeat,
            delivery::poison_uncounted,
            delivery::no_order_per_key,
            delivery::retry_overtaken,
            delivery::one_bad_sink,
            delivery::failure_swallowed,
            delivery::worker_name_reused,
        }
    };
}

macro_rules! rows {
    ($($theme:ident::$row:ident,)*) => {
        vec![$($crate::$theme::$row(),)*]
    };
}

/// All rows, in the order of the table.
#[must_use]
pub fn all() -> Vec<Row> {
    for_each_row!(rows {})
}
