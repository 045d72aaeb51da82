//! What the directory promises, in networks of a size that takes a moment.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn network(nodes: usize) -> Scenario {
    Scenario { nodes, ..Scenario::default() }
}

#[test]
fn a_scenario_gives_the_same_report_each_time() {
    let churn = Some(Churn { share: 0.25, within: MINUTE });
    let scenario = |seed| Scenario { seed, churn, ..network(100) };
    assert_eq!(lookups(&scenario(1), 10), lookups(&scenario(1), 10));
    assert_ne!(lookups(&scenario(1), 10), lookups(&scenario(2), 10));
}

#[test]
fn without_churn_every_lookup_finds() {
    for nodes in [10, 100, 400] {
        let report = lookups(&network(nodes), 60);
        assert_eq!(report.success(), 1.0, "{nodes} nodes: {report:?}");
    }
}

#[test]
fn a_quarter_may_vanish() {
    let churn = Churn { share: 0.25, within: MINUTE };
    let report = lookups(&Scenario { churn: Some(churn), ..network(300) }, 100);
    assert!(report.success() >= 0.99, "{report:?}");
}

#[test]
fn hops_and_messages_grow_as_the_logarithm() {
    let [small, large] = [30, 480].map(|nodes| lookups(&network(nodes), 80));
    // Twice as many nodes four times over.
    let each_doubling = |of: fn(&LookupReport) -> f64| (of(&large) - of(&small)) / 4.0;
    let hops = each_doubling(|report| report.hops.mean);
    assert!((0.0..0.5).contains(&hops), "{hops}");
    let messages = each_doubling(|report| report.messages.mean);
    assert!((0.0..4.0).contains(&messages), "{messages}");
    let announcing = each_doubling(|report| report.nearest_messages.mean);
    assert!((0.0..6.0).contains(&announcing), "{announcing}");
}

#[test]
fn announcing_a_key_finds_the_nearest_there_are() {
    let report = lookups(&network(400), 60);
    assert!(report.nearest_found >= 0.99, "{report:?}");
}

fn surrounded(conduct: Conduct) -> Scenario {
    let sybils = Sybils { count: 50, networks: 5, conduct };
    Scenario { sybils: Some(sybils), ..network(500) }
}

#[test]
fn surrounded_by_sybils_that_hide_it_a_provider_is_found() {
    let defended = eclipse(&surrounded(Conduct::Hides).defended(), 4, 10, 8);
    assert!(defended.success() >= 0.95, "{defended:?}");
}

#[test]
fn surrounded_by_sybils_that_lie_a_provider_is_found() {
    let defended = eclipse(&surrounded(Conduct::Lies).defended(), 4, 10, 8);
    assert!(defended.success() >= 0.95, "{defended:?}");
}

#[test]
fn surrounded_by_sybils_that_name_peers_which_are_not_there_a_provider_is_found() {
    let defended = eclipse(&surrounded(Conduct::Invents).defended(), 4, 10, 8);
    assert!(defended.success() >= 0.95, "{defended:?}");
}

#[test]
fn without_defences_sybils_hide_a_provider() {
    for conduct in [Conduct::Hides, Conduct::Lies] {
        let open = eclipse(&surrounded(conduct).undefended(), 2, 10, 8);
        assert_eq!(open.found, 0, "{open:?}");
    }
}

/// Two thousand keys in a network of a hundred.
#[test]
fn a_sweep_takes_few_lookups_and_misses_nobody() {
    let report = sweep(&network(100), 2_000, 100);
    assert_eq!(report.announced, 2_000, "{report:?}");
    assert!(report.lookups * 100 <= 2_000, "{report:?}");
    assert!(report.messages_a_key <= 0.5 * report.alone_messages_a_key, "{report:?}");
    assert_eq!(report.found, report.read, "{report:?}");
    assert!(report.placed >= 0.99, "{report:?}");
}

#[test]
fn a_sweep_while_a_quarter_vanishes_still_leaves_every_key_found() {
    let churn = Some(Churn { share: 0.25, within: MINUTE });
    let report = sweep(&Scenario { churn, ..network(200) }, 500, 100);
    assert_eq!(report.announced, 500, "{report:?}");
    assert!(report.found * 100 >= report.read * 99, "{report:?}");
}
