//! The table of cases, and the macro that makes tests of it.

/// One named test per case for a harness: a unit-like type that is `Default` and a
/// [`Harness`](crate::Harness). To be used once, at the top of a test file.
#[macro_export]
macro_rules! conformance {
    ($harness:ident) => {
        $crate::cases_of! { $harness;
            claim: [
                never_hands_out_a_job_twice
                two_callers_at_once_never_get_the_same_job
                serves_priority_then_due_time_then_age
                keeps_one_order_over_all_tasks_of_a_want
                serves_wants_in_their_order
                never_gives_more_than_the_limit
                gives_only_the_tasks_that_are_wanted
                skips_paused_queues
                a_paused_queue_does_not_use_up_the_limit
                never_before_its_time
                never_before_it_was_promoted
                never_after_expires_at
                still_at_expires_at_itself
                late_jobs_do_not_use_up_the_limit
                leases_grow_for_all_jobs
                counts_the_attempt_when_it_starts
                carries_the_job_as_it_was_asked_for
                a_clock_that_steps_back_keeps_ready_jobs_ready
                a_running_job_shows_its_attempt
                every_ready_job_is_handed_out_in_the_end
            ]
            settle: [
                every_verdict_leads_to_its_state
                refuses_a_stale_lease
                refuses_a_lease_that_was_never_given
                refuses_the_lease_of_another_job
                refuses_a_job_that_is_gone
                refuses_the_lease_of_an_earlier_life
                twice_answers_already
                twice_with_another_verdict_changes_nothing
                already_answers_the_state_of_now
                twice_in_one_batch_is_applied_once
                answers_in_the_order_of_the_batch
                completed_keeps_its_result
                a_retry_waits_for_its_due_time
                a_retry_that_is_due_already_is_scheduled_first
                a_retry_takes_its_place_by_its_new_due_time
                hand_back_does_not_spend_the_attempt
                hand_back_leaves_no_record
                hand_back_keeps_its_place_in_the_line
                hand_back_never_gives_a_lease_again
                keeps_every_failed_attempt
                drops_the_oldest_attempts_over_the_limit
                an_attempt_comes_back_whole
                the_crash_streak_grows_and_is_reset
                give_up_keeps_its_reason
                abort_spends_the_attempt
                a_job_whose_cancel_was_answered_does_not_run_again
                a_job_whose_cancel_came_too_late_keeps_its_end
                writes_records_in_the_same_commit
                every_applied_verdict_writes_its_records
                a_refused_settlement_writes_no_records
                a_repeated_settlement_writes_no_records
            ]
            insert: [
                a_job_for_now_is_ready
                a_job_for_later_is_scheduled
                a_new_job_is_shown_as_it_was_asked_for
                ids_grow
                batch_outcomes_keep_their_order
                a_full_batch_is_taken_whole
                an_empty_batch_is_no_error
                writes_records_in_the_same_commit
                writes_records_even_if_no_job_is_taken
                a_job_that_is_too_late_is_taken_and_never_run
                idempotency_finds_a_living_job
                idempotency_finds_a_finished_job
                idempotency_outlives_a_deleted_job
                idempotency_is_forgotten_after_its_time
                idempotency_refuses_another_request
                idempotency_ignores_the_time_of_a_delay_and_the_trace
                idempotency_counts_within_one_batch
                idempotency_of_a_job_that_was_not_made_is_free
                idempotency_comes_before_unique_key_and_limit
                unique_keep_answers_the_holder
                unique_reject_names_the_holder
                unique_replace_cancels_an_idle_holder
                unique_replace_keeps_a_running_holder
                unique_keys_are_per_task
                unique_until_finished_is_held_through_every_attempt
                unique_until_finished_is_free_after_every_end
                unique_until_started_is_free_after_the_claim
                unique_until_started_is_not_taken_again
                unique_keys_count_within_one_batch
                queue_full_refuses_what_is_over
                queue_full_counts_every_unfinished_job
                queue_full_ends_when_a_job_ends
                queue_full_is_per_queue
                queue_full_does_not_count_the_job_that_is_replaced
            ]
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! cases_of {
    ($harness:ident; $($module:ident: [ $($case:ident)* ])*) => {
        $(
            mod $module {
                $(
                    #[test]
                    fn $case() {
                        let harness = <super::$harness as ::core::default::Default>::default();
                        $crate::cases::$module::$case(&$crate::Kit::new(harness));
                    }
                )*
            }
        )*
    };
}
