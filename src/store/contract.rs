//! What every store does, as one list of facts that runs on SQLite and on PostgreSQL.

mod rows;
mod management;
mod changes;
mod access;
mod audit;
mod journal;
mod ceilings;
mod files;
mod batches;
mod reports;
mod backends;
mod shared;
mod reference;
mod adoption;
mod odd_rows;

#[path = "../../tests/it/support/postgres.rs"]
mod postgres_server;

use std::time::Duration;

use self::postgres_server::Database;
use super::Store;
use super::postgres::{self, Postgres};
use super::sqlite::{self, Sqlite};
use crate::config::{PostgresTls, Secret};

/// From an empty database to the schema of this binary.
const STEPS: usize = super::migrations::SQLITE.len();

/// Turns a list of facts into a test per fact and backend.
macro_rules! facts {
    ($($room:ident::$fact:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $fact() {
                    let (store, _folder) = super::sqlite().await;
                    super::$room::$fact(&store).await;
                }
            )*
        }
        mod on_postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $fact() {
                    let (store, _database) = super::postgres().await;
                    super::$room::$fact(&store).await;
                }
            )*
        }
    };
}

facts! {
    management::migrating_again_does_nothing,
    management::an_empty_store_has_nothing,
    management::a_key_comes_back_as_it_was_written,
    management::a_key_and_its_owner_are_created_together_or_not_at_all,
    management::a_key_of_an_unknown_user_is_refused,
    management::a_taken_key_id_or_hash_is_a_conflict,
    management::a_change_touches_only_what_it_names,
    management::pages_are_oldest_first_and_do_not_overlap,
    management::touching_keys_moves_last_use_forwards_and_ignores_unknown_ids,
    management::a_deleted_key_leaves_its_usage_without_it,
    management::a_taken_user_id_is_a_conflict,
    management::one_of_several_concurrent_creations_wins,
    management::a_budget_keeps_its_cap_to_the_micro_dollar,
    management::a_price_of_the_same_instant_replaces_the_rates_only,
    management::prices_are_listed_by_key_and_newest_first,
    management::everything_is_read_at_once,
    management::instants_keep_their_microseconds,
    changes::a_rotated_key_has_a_new_secret_that_was_never_used,
    changes::a_user_change_touches_only_what_it_names,
    changes::a_deleted_user_is_hidden_unbilled_and_revivable,
    changes::the_keys_of_a_deleted_user_are_off_and_stay_off,
    changes::a_budget_change_touches_only_what_it_names,
    changes::a_deleted_budget_leaves_its_users_their_dates,
    changes::a_budget_can_go_while_its_users_spend,
    changes::the_price_of_an_instant_is_the_newest_before_it,
    changes::prices_are_deleted_one_or_all,
    access::a_key_changes_its_rules_one_by_one,
    access::a_users_list_is_kept_changed_and_replaced_at_a_revival,
    access::an_alias_is_one_of_its_name_and_user,
    access::an_alias_of_an_unknown_user_is_refused,
    access::settings_are_set_and_removed_together,
    access::a_setting_is_added_once,
    audit::every_change_is_noted_with_its_author,
    audit::a_refused_change_is_not_noted,
    audit::changes_at_once_are_noted_one_after_the_other,
    audit::what_is_noted_is_filtered_paged_and_removed,
    journal::an_entry_applied_twice_counts_once,
    journal::repeats_inside_one_batch_count_once,
    journal::of_a_batch_that_is_there_in_part_the_rest_counts,
    journal::every_column_of_a_record_is_kept,
    journal::unknown_keys_and_users_are_written_as_null,
    journal::only_costs_that_count_are_added,
    journal::ten_thousand_small_costs_add_up_exactly,
    journal::absurd_numbers_do_not_block_the_journal,
    journal::nul_characters_are_dropped,
    journal::a_reset_zeroes_the_spend_once_and_only_at_its_deadline,
    journal::a_reset_stands_between_the_usage_before_and_after_it,
    journal::a_late_record_belongs_to_the_period_it_was_spent_in,
    journal::ceilings_are_charged_and_reset_like_users,
    ceilings::a_ceiling_comes_back_as_it_was_written_and_changed,
    ceilings::a_scope_and_provider_has_one_ceiling,
    ceilings::a_ceiling_goes_with_its_key_and_keeps_its_budget,
    ceilings::the_users_of_a_budget_are_counted,
    journal::concurrent_batches_of_the_same_entries_count_once,
    journal::usage_is_listed_newest_first_and_filtered,
    files::a_file_is_seen_once_its_bytes_are_there,
    files::a_file_of_an_unknown_user_is_not_begun,
    files::files_are_listed_by_owner_purpose_and_page,
    files::what_is_dropped_or_expired_is_claimed_once,
    batches::a_batch_comes_back_as_it_was_written,
    batches::batches_are_listed_newest_first_by_owner,
    batches::an_item_is_leased_by_one_and_ended_once,
    batches::batches_take_turns_and_providers_may_be_avoided,
    batches::cancelled_and_late_batches_end_with_what_they_have,
    batches::a_provider_is_asked_by_one_gateway_at_a_time,
    batches::a_batch_is_charged_once,
    batches::what_a_batch_holds_is_kept_until_it_is_charged,
    reports::sums_say_what_the_rows_say,
    reports::a_removed_row_leaves_the_sums,
    reports::deep_pages_are_the_pages_they_would_be,
    reports::every_filter_says_the_same_of_pages_counts_and_reports,
    reports::absurd_numbers_do_not_break_a_report,
}

/// A migrated SQLite store in a folder of its own.
async fn sqlite() -> (Sqlite, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite::open(&folder.path().join("otari.db")).await.unwrap();
    assert_eq!(store.migrate().await.unwrap(), STEPS);
    (store, folder)
}

/// A migrated PostgreSQL store in a database of its own.
async fn postgres() -> (Postgres, Database) {
    let database = postgres_server::database();
    let store = connect(&database.url, Duration::from_secs(30)).await.unwrap();
    assert_eq!(store.migrate().await.unwrap(), STEPS);
    (store, database)
}

async fn connect(url: &str, pool_timeout: Duration) -> Result<Postgres, super::StoreError> {
    let url = Secret::new(url);
    postgres::open(&url, "test/otari", PostgresTls::Prefer, None, 4, pool_timeout).await
}
