"""The catalogue's tools, demos and requirements, in alphabetical order: what each does, and the test that shows it."""

from __future__ import annotations

from pellucid.contract.entry import Entry

ENTRIES = (
    Entry(
        name="accountability-standards",
        kind="requirement",
        title="The release gate",
        does="Opens only where every method has a whole card and keeps, when tried, every property that the card claims.",
        use="pellucid.testing.gate; pellucid methods --gate",
        test="tests/contract/test_release.py::test_every_claim_is_tried_and_kept",
    ),
    Entry(
        name="faithfulness-disclaimer",
        kind="requirement",
        title="A story put to the test, and the question whether a black box is needed",
        does="Checks every map on a page by removal, and compares the network with models that people can read.",
        use="px.report(...); px.report.necessity(model, train=..., held_out=...)",
        test="tests/report/test_trust_necessity.py::test_on_planted_lines_the_readable_model_is_recommended",
    ),
    Entry(
        name="lime-breast-cancer-demo",
        kind="demo",
        title="LIME on a breast-cancer classifier",
        does="Draws what speaks for and against one diagnosis, and asserts how often each reading holds over seeds.",
        use="python docs/gallery.py lime",
        test="tests/docs/test_gallery.py::test_the_survey_s_illustrations_say_the_same_today",
    ),
    Entry(
        name="method-lookup-advisor",
        kind="tool",
        title="The field guide's lookup tables, and which direction to take",
        does="Gives the rows for data, problem and network, and says whether one answer or all should be explained.",
        use="pellucid.advice.lookup; pellucid.advice.direction; px.advise",
        test="tests/advice/test_table.py::test_purposes_lead_where_the_third_survey_says",
    ),
    Entry(
        name="model-agnostic-interpretability",
        kind="requirement",
        title="Explaining whatever gives scores",
        does="Methods that need predictions alone take any callable: a network, a scikit-learn model, a function.",
        use="px.explain(callable, inputs, method)",
        test="tests/contract/test_promises.py::test_one_explainer_runs_unchanged_on_a_network_a_scikit_model_and_a_function",
    ),
    Entry(
        name="model-specificity-metadata",
        kind="requirement",
        title="What a method needs of a model",
        does="Every card says what access it needs; a method that looks inside refuses a plain function by name.",
        use="px.catalogue.find(needs=...); pellucid methods --needs",
        test="tests/advice/test_table.py::test_a_method_that_looks_inside_refuses_a_plain_function",
    ),
    Entry(
        name="modularity",
        kind="requirement",
        title="Methods that others add",
        does="A subclass of Method, or a package with the entry point group pellucid.methods, joins catalogue and checks.",
        use="px.Method; pellucid.testing.check_method",
        test="tests/contract/test_promises.py::test_an_installed_package_adds_a_method_without_touching_pellucid",
    ),
    Entry(
        name="posthoc-adhoc-tradeoff",
        kind="tool",
        title="Accuracy against readability",
        does="Fits readable models, black boxes and proxies over repeated splits: does a black box buy accuracy?",
        use="pellucid.evaluation.tradeoff((X, y))",
        test="tests/oracles/evaluation/test_frontier.py::test_a_planted_interaction_opens_one",
    ),
    Entry(
        name="taxonomy-registry",
        kind="tool",
        title="The catalogue by each survey's taxonomy",
        does="Places every method once in six surveys' trees; a page filters by words, form, scope, needs and place.",
        use="px.catalogue.tree; px.catalogue.html",
        test="tests/show/test_catalogue.py::test_a_tree_holds_each_method_once_and_leads_back_to_its_place",
    ),
    Entry(
        name="trait-confidence",
        kind="requirement",
        title="Looking where people look, right and wrong decisions apart",
        does="Shows people right and wrong decisions in equal numbers, and tells how far maps agree with their marks.",
        use="px.report.to_mark; px.report.congruence",
        test="tests/report/test_trust_congruence.py::test_a_shortcut_shows_as_low_congruence_on_its_class",
    ),
    Entry(
        name="trait-trust-calibration",
        kind="requirement",
        title="Trust beside what it deserves",
        does="Sets what people say beside how often the network is right, and tells what an explanation changed.",
        use="px.report.calibration",
        test="tests/report/test_trust_calibration.py::test_the_planted_gap_is_recovered",
    ),
    Entry(
        name="unified-interpretation-framework",
        kind="requirement",
        title="One verb, six results",
        does="Every method is asked by px.explain, answers in one of six forms, and runs on at least one common network.",
        use="px.explain",
        test="tests/contract/test_conformance.py::test_method_works_somewhere",
    ),
)
