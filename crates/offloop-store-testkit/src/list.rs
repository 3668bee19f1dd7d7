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
                only_retried_ends_over_memory_are_counted
                give_up_keeps_its_reason
                abort_spends_the_attempt
                a_job_whose_cancel_was_answered_does_not_run_again
                a_job_whose_cancel_came_too_late_keeps_its_end
                writes_records_in_the_same_commit
                every_applied_verdict_writes_its_records
                a_refused_settlement_writes_no_records
                a_repeated_settlement_writes_no_records
            ]
            snooze: [
                waits_for_its_time_and_spends_no_attempt
                leaves_no_failure_and_no_attempt_on_record
                is_counted_until_an_attempt_is_spent
                a_job_that_ended_still_says_how_often
                does_not_reset_the_crash_streak
                of_a_job_whose_cancel_was_answered_ends_it
                can_be_cancelled_and_can_expire_while_it_sleeps
                a_stale_lease_puts_nobody_to_sleep
                what_it_cost_is_summed_up
            ]
            checkpoint: [
                is_there_after_every_end_that_is_not_the_last
                the_newest_one_counts
                a_stale_lease_moves_nothing
                a_completed_job_has_none
                the_next_life_goes_on_from_it
                goes_with_its_job
                orphans_bring_theirs
                the_longest_one_comes_back_whole
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
            promote: [
                makes_due_jobs_ready_and_names_the_next
                an_empty_store_has_nothing_due
                forgets_jobs_that_ended_before_their_time
                promotes_in_paused_queues_too
                keeps_the_due_time
            ]
            end_idle: [
                cancel_of_a_scheduled_job_ends_it
                cancel_of_a_ready_job_ends_it
                cancel_of_a_completed_job_changes_nothing
                cancel_of_a_failed_job_changes_nothing
                cancel_of_a_cancelled_job_changes_nothing
                cancel_of_an_expired_job_changes_nothing
                expire_of_a_scheduled_job_ends_it
                expire_of_a_ready_job_ends_it
                expire_of_a_completed_job_changes_nothing
                expire_of_a_failed_job_changes_nothing
                expire_of_a_cancelled_job_changes_nothing
                expire_of_an_expired_job_changes_nothing
                cancel_of_a_running_job_marks_it
                expire_of_a_running_job_marks_nothing
                an_unknown_job_is_unknown
                answers_in_the_order_of_the_batch
                keeps_the_attempts_of_a_job_between_retries
            ]
            overdue: [
                finds_idle_jobs_past_their_time
                says_what_they_are
                leaves_running_and_finished_jobs_alone
                keeps_its_limit_and_comes_back_for_the_rest
            ]
            revive: [
                failed_cancelled_and_expired_jobs_are_ready_now
                a_job_that_never_came_due_is_ready_now
                living_and_completed_jobs_are_not_touched
                attempts_and_streak_start_at_zero
                ends_over_memory_of_an_earlier_life_do_not_count
                earlier_attempts_stay_on_record
                takes_its_unique_key_again
                a_key_that_another_job_holds_is_a_conflict
                an_expiry_that_has_passed_is_lifted
                goes_past_the_limit_of_the_queue
                twice_in_one_batch_is_once
                the_second_life_ends_like_the_first
            ]
            delete: [
                final_jobs_are_gone
                living_jobs_are_not_touched
                answers_in_the_order_of_the_batch
                a_deleted_job_is_not_revived
                records_stay
            ]
            orphans: [
                finds_the_running_jobs_of_other_nodes
                idle_and_finished_jobs_are_no_orphans
                keeps_its_limit
                are_settled_by_their_old_lease
                say_that_a_cancel_was_asked_for
            ]
            progress: [
                the_last_note_is_shown
                a_stale_note_is_ignored
                the_note_goes_with_its_attempt
            ]
            prune: [
                without_a_rule_everything_stays
                completed_jobs_go_by_their_age
                other_finished_jobs_go_by_their_own_age
                the_oldest_go_first_by_count
                the_count_is_of_what_age_has_left
                goes_piece_by_piece
                rows_that_stay_do_not_stop_the_others
                living_jobs_never_go
                a_revived_job_is_no_finished_one
                an_idempotency_key_outlives_its_job
                idempotency_keys_go_by_their_age
            ]
            query: [
                an_unknown_job_is_none
                an_id_with_another_lower_half_is_another_job
                a_list_shows_what_the_job_shows
                newest_come_first
                by_task
                by_queue
                by_state
                by_tag
                by_class_of_the_last_failure
                by_everything_at_once
                pages_show_every_row_once
                pages_show_every_row_once_while_rows_are_added
                pages_show_every_row_once_while_jobs_end
                a_filtered_list_has_pages_too
                payloads_come_back_byte_by_byte
                options_come_back_in_every_state
            ]
            queues: [
                counts_follow_every_step
                each_queue_has_its_own_row
                the_backlog_is_told_by_queue_and_task
                a_paused_queue_is_listed_without_jobs
                pausing_twice_is_once
                a_paused_queue_takes_jobs_in_and_lets_running_ones_end
                the_oldest_ready_job_is_by_due_time
            ]
            modes: [
                a_paused_task_takes_jobs_in_and_gives_none_out
                a_job_is_given_out_only_if_neither_of_its_gates_is_shut
                a_draining_queue_refuses_new_jobs_by_name
                a_draining_task_refuses_new_jobs_in_every_queue
                a_draining_line_runs_what_it_has_to_its_end
                draining_does_not_forget_what_was_asked_before
                a_refused_job_holds_up_none_of_its_batch
                the_last_mode_counts_and_is_shown
            ]
            usage: [
                without_attempts_there_are_no_rows
                an_attempt_counts_under_its_task_queue_and_tags
                every_part_of_the_cost_is_summed
                what_a_lane_cannot_tell_is_not_counted_as_nothing
                attempts_are_told_apart_by_their_end
                a_refused_or_repeated_settlement_counts_nothing
                an_attempt_that_was_handed_back_counts_nothing
                a_tag_that_is_given_twice_counts_once
                hours_before_the_first_are_left_out
                an_attempt_of_an_hour_that_was_left_counts_there
                the_most_expensive_come_first_and_the_rest_is_told
                names_over_the_limit_of_their_hour_are_summed_together
                sums_outlive_their_jobs
                old_hours_are_forgotten
                a_sum_that_would_overflow_stops_at_its_end
            ]
            records: [
                a_row_comes_back_whole
                the_last_writer_wins
                a_write_without_label_deletes
                scans_go_in_byte_order
                scans_filter_by_label
                a_label_that_changed_is_found_by_the_new_one
                counts_go_by_label
                collections_do_not_mix
                every_row_is_seen_once_while_rows_are_added
            ]
            wake: [
                a_new_ready_job_is_hinted_at
                jobs_that_fall_due_are_hinted_at
                a_job_that_is_handed_back_is_hinted_at
                a_revived_job_is_hinted_at
                a_resumed_queue_is_hinted_at
                a_new_hook_replaces_the_old_one
            ]
            limits: [
                a_payload_of_one_mebibyte
                a_result_of_one_mebibyte
                the_longest_names_and_keys
                the_longest_log_and_message
                the_longest_record
                the_last_instant_and_the_highest_numbers
            ]
            close: [
                refuses_what_comes_after
                answers_what_came_before
            ]
            survives: [
                an_empty_store
                every_state
                options_and_payload
                the_order_of_ready_jobs
                the_order_of_due_times
                a_promoted_job_is_had_again
                unique_keys
                unique_keys_that_were_released
                a_unique_key_that_was_taken_again
                idempotency_keys
                pauses
                modes_of_queues_and_tasks
                the_counts_of_queues
                the_limit_of_a_queue
                attempts_history_and_streak
                ends_over_memory
                what_an_attempt_cost
                sums_of_usage
                the_names_that_have_sums_of_their_own
                finished_jobs
                running_jobs_are_orphans_of_the_old_node
                a_settlement_that_was_answered
                the_last_note
                checkpoints_and_snoozes
                ids_keep_growing
                leases_keep_growing
                leases_grow_even_if_no_row_remembers_them
                records
                what_was_pruned_stays_gone
                several_restarts
            ]
            limited: [
                a_queue_never_runs_more_than_it_may
                a_task_never_runs_more_than_it_may_in_all_queues_together
                each_key_has_its_own_room
                a_key_counts_in_every_task_and_queue
                a_key_within_a_task_does_not_count_elsewhere
                the_limit_of_one_key_overrides_that_of_each
                every_limit_that_holds_must_let_it_go
                a_held_back_job_does_not_use_up_the_want
                a_held_back_job_stays_ready_and_can_be_cancelled_or_expire
                every_way_to_end_an_attempt_frees_its_place
                a_rate_opens_when_it_said
                each_key_has_its_own_rate
                a_job_takes_its_cost_and_every_attempt_does
                a_clock_that_steps_back_blocks_no_longer_than_a_window
                a_changed_rate_begins_anew_and_the_same_one_does_not
                a_new_limit_counts_what_runs_already
                a_lower_limit_stops_nothing_that_runs
                what_a_limit_frees_is_hinted_at
                limits_are_shown_with_what_runs_and_what_blocks
                limits_come_page_by_page
                every_change_is_on_the_audit_log_and_nothing_else
                a_paused_queue_uses_no_rate
                pruning_gives_no_rate_anew
            ]
            turns: [
                keys_take_turns
                a_batch_is_served_as_one_by_one
                a_first_job_never_waits_behind_the_many_of_another
                new_keys_without_end_do_not_starve_one_that_waits
                priority_orders_the_jobs_of_one_key_alone
                a_key_of_weight_has_as_many_picks_in_its_turn
                a_weight_for_each_key_is_not_shared
                jobs_without_a_key_share_one_turn_per_line
                without_keys_the_order_is_by_priority_over_all_lines
                a_key_that_is_held_back_keeps_its_place_in_the_round
                late_and_paused_jobs_do_not_use_a_turn
                many_keys_are_all_served
            ]
            unique: [
                a_period_is_held_after_the_end_and_the_job
                a_period_is_over_although_the_job_still_runs
                throttle_answers_the_first_of_the_period
                a_period_is_replaced_only_while_its_job_is_idle
                a_period_that_is_over_is_pruned_and_no_other
                a_job_that_is_revived_is_not_in_its_own_way
                debounce_runs_the_last_request_once_it_is_quiet
                debounce_takes_the_new_options_in_place
                debounce_makes_a_ready_holder_wait_again
                a_running_job_does_not_swallow_a_debounced_request
                a_debounced_job_that_waits_for_its_retry_keeps_its_attempts
                debounce_into_a_full_queue_changes_nothing
                a_debounced_request_takes_over_a_key_that_was_held_for_a_period
                a_repeated_debounced_request_is_answered_by_its_key
            ]
            survives_limits: [
                limits_and_their_log
                jobs_that_ran_before_still_count
                what_was_taken_from_a_rate
                keys_still_take_turns
                periods_of_unique_keys
                a_debounced_job_and_who_has_its_key
            ]
            model: [
                agrees_with_the_oracle
                agrees_across_restarts
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
