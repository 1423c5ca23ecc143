//! Facts about costs: worked numbers, and rules that hold for every price and every count.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, prop_assume};

use super::CacheCounting::{Additive, Inclusive};
use super::*;

/// So many USD per million.
fn usd(rate: f64) -> Rate {
    Rate::from_f64(rate).unwrap()
}

fn tokens(
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
    cache_write_1h: u64,
) -> Tokens {
    Tokens { input, output, cache_read, cache_write, cache_write_1h }
}

/// All five rates, no two alike.
fn five() -> Prices {
    Prices {
        cache_read: Some(usd(0.3)),
        cache_write: Some(usd(3.75)),
        cache_write_1h: Some(usd(6.0)),
        ..Prices::new(usd(3.0), usd(15.0))
    }
}

#[test]
fn every_meter_has_its_rate_in_both_countings() {
    // 100 fresh at 3, 1000 read at 0.3, 200 written at 3.75, 40 at 6, 10 out at 15 USD per million.
    let micros = MicroUsd(300 + 300 + 750 + 240 + 150);
    assert_eq!(five().cost(&tokens(1340, 10, 1000, 200, 40), Inclusive), micros);
    assert_eq!(five().cost(&tokens(100, 10, 1000, 200, 40), Additive), micros);
}

#[test]
fn a_meter_without_a_rate_is_billed_as_input() {
    let prices = Prices::new(usd(3.0), usd(15.0));
    let all = MicroUsd(1340 * 3);
    assert_eq!(prices.cost(&tokens(1340, 0, 1000, 200, 40), Inclusive), all);
    assert_eq!(prices.cost(&tokens(100, 0, 1000, 200, 40), Additive), all);
    let read_only = Prices { cache_read: Some(usd(0.3)), ..prices };
    assert_eq!(read_only.cost(&tokens(1340, 0, 1000, 200, 40), Inclusive), MicroUsd(300 + 340 * 3));
}

#[test]
fn an_hours_write_falls_back_to_the_rate_of_a_write() {
    let prices = Prices { cache_write_1h: None, ..five() };
    assert_eq!(prices.cost(&tokens(40, 0, 0, 0, 40), Inclusive), MicroUsd(150));
    assert_eq!(five().cost(&tokens(40, 0, 0, 0, 40), Inclusive), MicroUsd(240));
}

#[test]
fn counts_that_contradict_each_other_are_not_believed() {
    let prices = five();
    for wrong in [
        tokens(100, 1, 101, 0, 0),
        tokens(100, 1, 60, 30, 11),
        tokens(100, 1, u64::MAX, 1, 0),
        tokens(100, 1, u64::MAX, u64::MAX, u64::MAX),
    ] {
        assert_eq!(prices.cost(&wrong, Inclusive), MicroUsd(315), "{wrong:?}");
    }
    assert_eq!(prices.cost(&tokens(100, 1, 60, 30, 10), Inclusive), MicroUsd(18 + 113 + 60 + 15));
    assert_eq!(
        prices.cost(&tokens(100, 1, 101, 0, 0), Additive),
        MicroUsd(300 + 30 + 15),
        "no contradiction"
    );
}

#[test]
fn a_tier_reprices_the_whole_request_for_the_rates_it_names() {
    let tiers = vec![
        Tier { min_input_tokens: 400, input: Some(usd(12.0)), ..Tier::default() },
        Tier {
            min_input_tokens: 200,
            input: Some(usd(6.0)),
            output: Some(usd(22.5)),
            ..Tier::default()
        },
    ];
    let prices = five().with_tiers(tiers);
    assert_eq!(prices.cost(&tokens(199, 2, 0, 0, 0), Inclusive), MicroUsd(199 * 3 + 30));
    assert_eq!(
        prices.cost(&tokens(200, 2, 0, 0, 0), Inclusive),
        MicroUsd(200 * 6 + 45),
        "at the threshold"
    );
    assert_eq!(
        prices.cost(&tokens(400, 2, 0, 0, 0), Inclusive),
        MicroUsd(400 * 12 + 30),
        "only what it names"
    );
    assert_eq!(
        prices.cost(&tokens(200, 0, 100, 0, 0), Inclusive),
        MicroUsd(600 + 30),
        "the read keeps its rate"
    );
    // The total decides: 100 fresh and 100 read are an input of 200.
    assert_eq!(prices.cost(&tokens(100, 0, 100, 0, 0), Additive), MicroUsd(600 + 30));
    assert_eq!(prices.cost(&tokens(99, 0, 100, 0, 0), Additive), MicroUsd(297 + 30));
}

#[test]
fn a_tier_may_name_what_the_model_has_not() {
    let prices = Prices::new(usd(3.0), usd(0.0)).with_tiers(vec![Tier {
        min_input_tokens: 10,
        cache_write: Some(usd(4.0)),
        ..Tier::default()
    }]);
    assert_eq!(prices.cost(&tokens(9, 0, 0, 4, 5), Inclusive), MicroUsd(27));
    assert_eq!(
        prices.cost(&tokens(10, 0, 0, 4, 6), Inclusive),
        MicroUsd(40),
        "also for an hour's write"
    );
}

#[test]
fn of_two_tiers_with_one_threshold_the_later_counts() {
    let tier = |rate| Tier { min_input_tokens: 5, input: Some(usd(rate)), ..Tier::default() };
    let prices = Prices::default().with_tiers(vec![tier(1.0), tier(2.0)]);
    assert_eq!(prices.tiers(), [tier(2.0)]);
}

#[test]
fn free_is_free_in_every_tier_and_from_every_cache() {
    let zero = Prices { cache_read: Some(usd(0.0)), ..Prices::default() };
    let tier =
        |rate| vec![Tier { min_input_tokens: 5, output: Some(usd(rate)), ..Tier::default() }];
    assert!(zero.clone().with_tiers(tier(0.0)).is_free());
    assert!(!zero.clone().with_tiers(tier(1.0)).is_free());
    assert!(!Prices { cache_write_1h: Some(usd(0.00000001)), ..zero }.is_free());
    assert!(!Prices::new(usd(0.0), usd(1.0)).is_free());
}

#[test]
fn a_sum_beyond_every_column_saturates() {
    let prices =
        Prices { cache_read: Some(Rate(i64::MAX)), ..Prices::new(Rate(i64::MAX), Rate(i64::MAX)) };
    let most = tokens(u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    assert_eq!(prices.cost(&most, Additive), MicroUsd(i64::MAX));
    assert_eq!(prices.ceiling(u64::MAX).cost(u64::MAX, u64::MAX), MicroUsd(i64::MAX));
}

/// A rate up to a hundred thousand USD per million; often a small or a round one.
fn rate() -> impl Strategy<Value = Rate> {
    prop_oneof![Just(0), 0i64..1000, 0i64..10_000_000_000_000].prop_map(Rate)
}

fn maybe_rate() -> impl Strategy<Value = Option<Rate>> {
    option::of(rate())
}

fn tier() -> impl Strategy<Value = Tier> {
    (1u64..300_000, maybe_rate(), maybe_rate(), maybe_rate(), maybe_rate(), maybe_rate()).prop_map(
        |(min_input_tokens, input, output, cache_read, cache_write, cache_write_1h)| Tier {
            min_input_tokens,
            input,
            output,
            cache_read,
            cache_write,
            cache_write_1h,
        },
    )
}

fn prices() -> impl Strategy<Value = Prices> {
    let rates = (rate(), rate(), maybe_rate(), maybe_rate(), maybe_rate());
    (rates, vec(tier(), 0..4)).prop_map(
        |((input, output, cache_read, cache_write, cache_write_1h), tiers)| {
            Prices { cache_read, cache_write, cache_write_1h, ..Prices::new(input, output) }
                .with_tiers(tiers)
        },
    )
}

fn any_tokens() -> impl Strategy<Value = Tokens> {
    let some = || prop_oneof![Just(0), 0u64..100, 0u64..1_000_000];
    (some(), some(), some(), some(), some())
        .prop_map(|(input, output, read, write, hour)| tokens(input, output, read, write, hour))
}

/// The rules once more, in another way: meter by meter, the rate found by walking the tiers, and the fraction rounded
/// as whole and rest.
fn oracle(prices: &Prices, sent: Tokens, counting: CacheCounting) -> i128 {
    let cached: u128 =
        [sent.cache_read, sent.cache_write, sent.cache_write_1h].map(u128::from).iter().sum();
    let (fresh, read, write, hour) = match counting {
        Additive => {
            (u128::from(sent.input), sent.cache_read, sent.cache_write, sent.cache_write_1h)
        }
        Inclusive if cached > u128::from(sent.input) => (u128::from(sent.input), 0, 0, 0),
        Inclusive => (
            u128::from(sent.input) - cached,
            sent.cache_read,
            sent.cache_write,
            sent.cache_write_1h,
        ),
    };
    let total = fresh + u128::from(read) + u128::from(write) + u128::from(hour);
    let mut tier = &Tier::default();
    for candidate in prices.tiers() {
        if u128::from(candidate.min_input_tokens) <= total {
            tier = candidate;
        }
    }
    let input = tier.input.unwrap_or(prices.input);
    let write_rate = tier.cache_write.or(prices.cache_write);
    let hour_rate = tier.cache_write_1h.or(prices.cache_write_1h).or(write_rate);
    let mut parts = i128::try_from(fresh).unwrap() * i128::from(input.0);
    for (count, rate) in [
        (sent.output, Some(tier.output.unwrap_or(prices.output))),
        (read, tier.cache_read.or(prices.cache_read)),
        (write, write_rate),
        (hour, hour_rate),
    ] {
        parts += i128::from(count) * i128::from(rate.unwrap_or(input).0);
    }
    let (whole, rest) = (parts / 100_000_000, parts % 100_000_000);
    whole + i128::from(rest >= 50_000_000)
}

proptest::proptest! {
    #[test]
    fn a_cost_is_that_of_the_exact_fraction(prices in prices(), sent in any_tokens(), additive in proptest::bool::ANY) {
        let counting = if additive { Additive } else { Inclusive };
        let cost = prices.cost(&sent, counting);
        prop_assert!(cost >= MicroUsd::ZERO);
        prop_assert_eq!(i128::from(cost.0), oracle(&prices, sent, counting));
    }

    #[test]
    fn more_output_never_costs_less(prices in prices(), sent in any_tokens(), more in 0u64..1_000_000) {
        let longer = Tokens { output: sent.output + more, ..sent };
        prop_assert!(prices.cost(&longer, Inclusive) >= prices.cost(&sent, Inclusive));
    }

    #[test]
    fn without_cheaper_tiers_more_input_never_costs_less(
        prices in prices(), sent in any_tokens(), more in 0u64..1_000_000, meter in 0usize..4,
    ) {
        let prices = prices.with_tiers(Vec::new());
        let mut longer = sent;
        let meters =
            [&mut longer.input, &mut longer.cache_read, &mut longer.cache_write, &mut longer.cache_write_1h];
        *meters.into_iter().nth(meter).unwrap() += more;
        prop_assert!(prices.cost(&longer, Additive) >= prices.cost(&sent, Additive));
    }

    #[test]
    fn a_ceiling_covers_every_request_below_it(prices in prices(), sent in any_tokens(), longer in 0u64..300_000) {
        prop_assume!(sent.input < u64::MAX / 2);
        let ceiling = prices.ceiling(sent.input + longer);
        prop_assert!(ceiling.cost(sent.input + longer, sent.output) >= prices.cost(&sent, Inclusive));
        let total = sent.total_input();
        prop_assert!(prices.ceiling(total).cost(total, sent.output) >= prices.cost(&sent, Additive));
    }

    #[test]
    fn what_is_free_costs_nothing(prices in prices(), sent in any_tokens()) {
        if prices.is_free() {
            prop_assert_eq!(prices.cost(&sent, Inclusive), MicroUsd::ZERO);
        }
    }
}
