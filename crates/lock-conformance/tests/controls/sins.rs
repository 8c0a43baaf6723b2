//! What a store can do wrong, one thing each, and which cases see it.

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sin {
    /// Whoever looks who holds a free resource reserves it.
    LookingReserves,
    /// A holder that comes back after its release gets its old token.
    TheSameHolderKeepsItsToken,
    /// A term that ran out leaves its token to the next.
    TokensOfExpiredTermsAreReused,
    /// A grant whose reply nobody received is undone, token included.
    OnlyReceivedTokensCount,
    /// Tokens are not kept over a restart.
    ARestartForgetsTokens,
    /// A restored backup has resources held by nobody knows whom, for ever.
    RestoredTermsNeverEnd,
    /// Whether a resource is free is not checked when the grant is written, but before.
    ItChecksFirstAndWritesLater,
    /// Whoever has waited is granted the resource.
    AWaitThatEndsMeansFree,
    /// The holder is granted its resource again.
    AHolderMayTakeItAgain,
    /// Running terms are not kept over a restart.
    ARestartFreesEverything,
    /// Renewals look at the holder alone.
    RenewalsIgnoreTheToken,
    /// Renewals look at the token alone.
    RenewalsIgnoreTheHolder,
    /// Renewals look at holder and token alone.
    RenewalsIgnoreTheResource,
    /// A renewal takes a release back.
    ReleasedTermsAreRenewed,
    /// A renewal revives a term that ran out, if nobody came in between.
    ExpiredTermsAreRevived,
    /// A holder that was replaced is told that it still holds.
    StaleHoldersAreConfirmed,
    /// Releases look at the holder alone.
    ReleasesIgnoreTheToken,
    /// Releases look at the token alone.
    ReleasesIgnoreTheHolder,
    /// Releases look at holder and token alone.
    ReleasesIgnoreTheResource,
    /// A release that comes late releases the next term.
    LateReleasesFreeTheNext,
    /// A released resource is free some seconds later.
    ReleasesTakeTime,
    /// A release does not return.
    ReleasesNeverReturn,
    /// Releasing what is released fails.
    ASecondReleaseIsAnError,
    /// Times to live are cut to whole seconds.
    TimesAreCutToSeconds,
    /// Terms end ten seconds late.
    TermsEndMuchTooLate,
    /// A renewal is confirmed and does nothing.
    RenewalsDoNotLastLonger,
    /// Only the client that was granted a term can release it.
    OnlyItsOwnHandleReleases,
    /// A try that was under way for long is granted whoever holds.
    LateTriesAreGranted,
    /// A dropped try leaves a mark that all later calls fail on.
    ADroppedTryBreaksTheHandle,
    /// A dropped renewal leaves a mark that all later calls fail on.
    ADroppedRenewalBreaksTheHandle,
    /// A release that is dropped between its two steps leaves the resource blocked.
    ADroppedReleaseBlocksForEver,
    /// A release wakes the first in line, even when that has gone.
    TheFirstInLineIsWokenEvenIfGone,
    /// A wait ends when the resource is free, and not before.
    WaitsIgnoreTheirLimit,
    /// A release wakes nobody.
    ReleasesWakeNobody,
    /// A holder gets one resource at a time.
    AHolderMayHoldOneResource,
    /// Upper and lower case are the same.
    NamesAreLowerCased,
    /// Names count up to their 63rd character.
    NamesAreCutOff,
    /// The time that remains is in another unit.
    RemainingIsInAnotherUnit,
    /// Every term is said to have ended.
    EveryTermIsSaidToHaveEnded,
    /// An error's cause shows the password.
    ErrorsShowThePassword,
    /// Debug shows the password.
    DebugShowsThePassword,
    /// Each client draws an identity.
    EveryHandleHasAnIdentity,
    /// The identity is written in the source.
    EveryStoreHasTheSameIdentity,
    /// The identity is drawn at each start.
    ARestartDrawsAnIdentity,
}

/// A sin and the case that is there to find it.
pub(super) struct Control {
    pub(super) sin: Sin,
    pub(super) case: &'static str,
    /// What the case says of it.
    pub(super) text: &'static str,
    /// The other cases that see it, because they rely on the same obligation. All the rest pass.
    pub(super) also: &'static [&'static str],
}

const fn control(sin: Sin, case: &'static str, text: &'static str, also: &'static [&'static str]) -> Control {
    Control { sin, case, text, also }
}

pub(super) const CONTROLS: &[Control] = &[
    control(
        Sin::LookingReserves,
        "a_free_resource_is_granted",
        "must be free for",
        &["tokens_grow_over_grants_that_nobody_received", "a_cancelled_try_leaves_nothing_behind"],
    ),
    control(
        Sin::TheSameHolderKeepsItsToken,
        "tokens_grow_with_each_release",
        "which is not above token 1 of an earlier grant of the same holder that was released",
        &[
            "a_store_that_was_set_back_is_refused",
            "many_tasks_count_without_losing_one",
            "a_grant_whose_reply_was_lost_is_found_and_released",
        ],
    ),
    control(
        Sin::TokensOfExpiredTermsAreReused,
        "tokens_grow_with_each_expiry",
        "which is not above token 1 of an earlier grant that ran out",
        &["tokens_grow_over_grants_that_nobody_received", "a_late_reply_grants_nothing_twice"],
    ),
    control(Sin::OnlyReceivedTokensCount, "tokens_grow_over_grants_that_nobody_received", "", &[]),
    control(
        Sin::ARestartForgetsTokens,
        "tokens_grow_across_a_restart",
        "of a grant from before a restart of the store",
        &[],
    ),
    control(
        Sin::RestoredTermsNeverEnd,
        "a_store_that_was_set_back_is_refused",
        "neither failed nor was granted",
        &[],
    ),
    control(
        Sin::ItChecksFirstAndWritesLater,
        "one_of_many_is_granted",
        "holders who tried at once, those with tokens",
        &["many_tasks_count_without_losing_one", "a_late_reply_grants_nothing_twice"],
    ),
    control(
        Sin::AWaitThatEndsMeansFree,
        "many_tasks_count_without_losing_one",
        "tasks counted 90 times under the lock to",
        &["a_wait_ends_with_its_limit"],
    ),
    control(
        Sin::AHolderMayTakeItAgain,
        "an_own_earlier_grant_is_held",
        "although an earlier term of the same holder is running",
        &["a_grant_whose_reply_was_lost_is_found_and_released"],
    ),
    control(
        Sin::ARestartFreesEverything,
        "a_restart_frees_nothing",
        "a restart of the store freed the resource",
        &[],
    ),
    control(
        Sin::RenewalsIgnoreTheToken,
        "a_renewal_names_the_exact_token",
        "although a term with another token was to be renewed",
        &[],
    ),
    control(
        Sin::RenewalsIgnoreTheHolder,
        "a_renewal_names_the_exact_holder",
        "although a term of another holder was to be renewed",
        &["a_renewal_names_the_exact_resource"],
    ),
    control(
        Sin::RenewalsIgnoreTheResource,
        "a_renewal_names_the_exact_resource",
        "although the resource was never granted to that holder",
        &[],
    ),
    control(Sin::ReleasedTermsAreRenewed, "a_released_term_is_not_renewed", "although it was released", &[]),
    control(
        Sin::ExpiredTermsAreRevived,
        "an_expired_term_is_not_revived",
        "although it ran out, though nobody has taken the resource since",
        &[],
    ),
    control(
        Sin::StaleHoldersAreConfirmed,
        "a_stale_holder_is_told",
        "although it ran out and was followed by another",
        &["a_late_reply_grants_nothing_twice"],
    ),
    control(
        Sin::ReleasesIgnoreTheToken,
        "a_release_names_the_exact_token",
        "although only a term with another token was released",
        &[],
    ),
    control(
        Sin::ReleasesIgnoreTheHolder,
        "a_release_names_the_exact_holder",
        "although only a term of another holder was released",
        &[],
    ),
    control(
        Sin::ReleasesIgnoreTheResource,
        "a_release_names_the_exact_resource",
        "although only a term of another resource was released",
        &["resources_are_independent"],
    ),
    control(
        Sin::LateReleasesFreeTheNext,
        "a_late_release_leaves_the_next_term_alone",
        "although only the term before it was released",
        &[],
    ),
    control(
        Sin::ReleasesTakeTime,
        "a_release_frees_at_once",
        "although it was released",
        &[
            "tokens_grow_with_each_release",
            "tokens_grow_across_a_restart",
            "a_store_that_was_set_back_is_refused",
            "many_tasks_count_without_losing_one",
            "a_renewal_names_the_exact_token",
            "a_renewal_names_the_exact_holder",
            "a_released_term_is_not_renewed",
            "a_release_names_the_exact_token",
            "a_release_names_the_exact_holder",
            "a_grant_whose_reply_was_lost_is_found_and_released",
            "a_cancelled_try_leaves_nothing_behind",
            "a_cancelled_renewal_leaves_nothing_behind",
            "a_cancelled_release_leaves_nothing_behind",
            "a_cancelled_wait_leaves_nothing_behind",
            "a_release_wakes_who_waits",
            "resources_are_independent",
            "odd_names_are_told_apart",
            "long_names_are_told_apart",
            "holder_tells_the_truth",
        ],
    ),
    control(
        Sin::ReleasesNeverReturn,
        "a_release_frees_at_once",
        "release did not end within",
        &[
            "tokens_grow_with_each_release",
            "tokens_grow_over_grants_that_nobody_received",
            "tokens_grow_across_a_restart",
            "a_store_that_was_set_back_is_refused",
            "many_tasks_count_without_losing_one",
            "a_renewal_names_the_exact_token",
            "a_renewal_names_the_exact_holder",
            "a_released_term_is_not_renewed",
            "a_release_names_the_exact_token",
            "a_release_names_the_exact_holder",
            "a_release_names_the_exact_resource",
            "a_late_release_leaves_the_next_term_alone",
            "a_release_of_a_term_that_is_over_is_fine",
            "a_grant_whose_reply_was_lost_is_found_and_released",
            "a_cancelled_try_leaves_nothing_behind",
            "a_cancelled_renewal_leaves_nothing_behind",
            "a_cancelled_release_leaves_nothing_behind",
            "a_cancelled_wait_leaves_nothing_behind",
            "a_release_wakes_who_waits",
            "resources_are_independent",
            "odd_names_are_told_apart",
            "long_names_are_told_apart",
            "holder_tells_the_truth",
            "a_store_has_one_identity",
            "the_identity_survives_a_restart",
        ],
    ),
    control(
        Sin::ASecondReleaseIsAnError,
        "a_release_of_a_term_that_is_over_is_fine",
        "release failed",
        &[
            "a_release_names_the_exact_token",
            "a_release_names_the_exact_holder",
            "a_release_names_the_exact_resource",
            "a_late_release_leaves_the_next_term_alone",
            "a_cancelled_release_leaves_nothing_behind",
        ],
    ),
    control(
        Sin::TimesAreCutToSeconds,
        "a_term_lasts_its_time_to_live",
        "before the time to live of a grant for 1.7s was over",
        &[],
    ),
    control(
        Sin::TermsEndMuchTooLate,
        "a_term_ends_after_its_time_to_live",
        "although the term before was granted for 1s and not renewed",
        &[
            "tokens_grow_with_each_expiry",
            "tokens_grow_over_grants_that_nobody_received",
            "a_renewal_names_the_exact_token",
            "a_renewal_names_the_exact_holder",
            "an_expired_term_is_not_revived",
            "a_stale_holder_is_told",
            "a_late_release_leaves_the_next_term_alone",
            "a_renewal_lets_the_term_run_on",
            "a_late_reply_grants_nothing_twice",
            "a_cancelled_try_leaves_nothing_behind",
            "a_cancelled_release_leaves_nothing_behind",
            "holder_tells_the_truth",
        ],
    ),
    control(
        Sin::RenewalsDoNotLastLonger,
        "a_renewal_lets_the_term_run_on",
        "before the time to live of a renewal for 3s was over",
        &[],
    ),
    control(
        Sin::OnlyItsOwnHandleReleases,
        "a_grant_whose_reply_was_lost_is_found_and_released",
        "although the grant whose reply was lost was released",
        &[],
    ),
    control(
        Sin::LateTriesAreGranted,
        "a_late_reply_grants_nothing_twice",
        "a try that was held up was granted token",
        &[],
    ),
    control(
        Sin::ADroppedTryBreaksTheHandle,
        "a_cancelled_try_leaves_nothing_behind",
        "after a try was dropped after 1 polls",
        &[],
    ),
    control(
        Sin::ADroppedRenewalBreaksTheHandle,
        "a_cancelled_renewal_leaves_nothing_behind",
        "although only a renewal that was dropped after",
        &[],
    ),
    control(
        Sin::ADroppedReleaseBlocksForEver,
        "a_cancelled_release_leaves_nothing_behind",
        "although a release was dropped after 2 polls, and the time to live of 1s is over",
        &[],
    ),
    control(
        Sin::TheFirstInLineIsWokenEvenIfGone,
        "a_cancelled_wait_leaves_nothing_behind",
        "a release did not wake who waits within 2s, after a wait of another had been dropped",
        &[],
    ),
    control(
        Sin::WaitsIgnoreTheirLimit,
        "a_wait_ends_with_its_limit",
        "wait with a limit of 500ms did not end",
        &[],
    ),
    control(
        Sin::ReleasesWakeNobody,
        "a_release_wakes_who_waits",
        "although it was released while this waited",
        &["many_tasks_count_without_losing_one", "a_cancelled_wait_leaves_nothing_behind"],
    ),
    control(
        Sin::AHolderMayHoldOneResource,
        "resources_are_independent",
        "must be free for",
        &["a_release_names_the_exact_resource"],
    ),
    control(
        Sin::NamesAreLowerCased,
        "odd_names_are_told_apart",
        "the name \"A\" is taken for another one",
        &[],
    ),
    control(Sin::NamesAreCutOff, "long_names_are_told_apart", "is taken for another one, or for none", &[]),
    control(
        Sin::RemainingIsInAnotherUnit,
        "holder_tells_the_truth",
        "a term that was just granted for 60s has",
        &[],
    ),
    control(
        Sin::EveryTermIsSaidToHaveEnded,
        "ended_never_lies",
        "is over, and renew says that it runs",
        &["a_late_reply_grants_nothing_twice"],
    ),
    control(Sin::ErrorsShowThePassword, "secrets_do_not_show", "an error shows a secret: store_id", &[]),
    control(Sin::DebugShowsThePassword, "secrets_do_not_show", "Debug of a handle shows a secret", &[]),
    control(
        Sin::EveryHandleHasAnIdentity,
        "a_store_has_one_identity",
        "on another handle",
        &["the_identity_survives_a_restart"],
    ),
    control(
        Sin::EveryStoreHasTheSameIdentity,
        "two_stores_have_two_identities",
        "two stores have the same identity",
        &[],
    ),
    control(Sin::ARestartDrawsAnIdentity, "the_identity_survives_a_restart", "before a restart and is", &[]),
];
