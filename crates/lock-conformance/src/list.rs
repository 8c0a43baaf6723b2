//! The list of all cases, written once: the table of [`cases`](crate::cases) and the tests of [`suite!`](crate::suite)
//! are both made from it.

use crate::case::Case;
use crate::harness::Needs;

/// Hands `module::name => "obligation" [needs]` of each case to a macro, after what else it is to get.
///
/// The obligation is the name of one of those that `LockStore` lists, or of one of its methods.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_case {
    ($callback:path { $($head:tt)* }) => {
        $callback! {
            $($head)*
            tokens::a_free_resource_is_granted => "try_acquire" [],
            tokens::tokens_grow_with_each_release => "Tokens grow" [],
            tokens::tokens_grow_with_each_expiry => "Tokens grow" [],
            tokens::tokens_grow_over_grants_that_nobody_received => "Tokens grow" [],
            tokens::tokens_grow_across_a_restart => "Tokens grow" [restart],
            restored::a_store_that_was_set_back_is_refused => "Tokens grow" [restore],
            exclusion::one_of_many_is_granted => "One holder" [],
            exclusion::many_tasks_count_without_losing_one => "One holder" [],
            exclusion::many_processes_count_without_losing_one => "One holder" [processes],
            exclusion::an_own_earlier_grant_is_held => "One holder" [],
            exclusion::a_restart_frees_nothing => "One holder" [restart],
            terms::a_renewal_names_the_exact_token => "Exact terms" [],
            terms::a_renewal_names_the_exact_holder => "Exact terms" [],
            terms::a_renewal_names_the_exact_resource => "Exact terms" [],
            terms::a_released_term_is_not_renewed => "Exact terms" [],
            terms::an_expired_term_is_not_revived => "Exact terms" [],
            terms::a_stale_holder_is_told => "renew" [],
            terms::a_release_names_the_exact_token => "Exact terms" [],
            terms::a_release_names_the_exact_holder => "Exact terms" [],
            terms::a_release_names_the_exact_resource => "Exact terms" [],
            terms::a_late_release_leaves_the_next_term_alone => "Exact terms" [],
            terms::a_release_frees_at_once => "release" [],
            terms::a_release_of_a_term_that_is_over_is_fine => "release" [],
            time::a_term_lasts_its_time_to_live => "Store time" [],
            time::a_term_ends_after_its_time_to_live => "Store time" [],
            time::a_renewal_lets_the_term_run_on => "renew" [],
            replies::a_grant_whose_reply_was_lost_is_found_and_released => "Unclear means error" [],
            replies::a_late_reply_grants_nothing_twice => "One holder" [],
            cancellation::a_cancelled_try_leaves_nothing_behind => "Cancellation" [],
            cancellation::a_cancelled_renewal_leaves_nothing_behind => "Cancellation" [],
            cancellation::a_cancelled_release_leaves_nothing_behind => "Cancellation" [],
            cancellation::a_cancelled_wait_leaves_nothing_behind => "Cancellation" [],
            waiting::a_wait_ends_with_its_limit => "Bounds" [],
            waiting::a_release_wakes_who_waits => "Waiting" [],
            names::resources_are_independent => "One holder" [],
            names::odd_names_are_told_apart => "try_acquire" [],
            names::long_names_are_told_apart => "try_acquire" [],
            telling::holder_tells_the_truth => "holder" [],
            telling::ended_never_lies => "ended" [],
            telling::secrets_do_not_show => "Secrets" [secrets],
            identity::a_store_has_one_identity => "store_id" [],
            identity::two_stores_have_two_identities => "store_id" [],
            identity::the_identity_survives_a_restart => "store_id" [restart],
        }
    };
}

macro_rules! table {
    ($($module:ident::$name:ident => $obligation:literal [$($need:ident)?],)*) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            obligation: $obligation,
            needs: Needs { $($need: true,)? ..NOTHING },
            body: |stage| Box::pin(crate::cases::$module::$name(stage)),
        }),*];
    };
}

const NOTHING: Needs = Needs { restart: false, restore: false, processes: false, secrets: false };

crate::__for_each_case! { table {} }

/// All cases, for programs that run them by [`Case::run`]. Never empty.
#[must_use]
pub fn cases() -> &'static [Case] {
    CASES
}
