pub const SCENARIOS: &[super::harness::Scenario] = &[];
