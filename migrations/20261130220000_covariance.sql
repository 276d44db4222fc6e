-- Pairs of numbers are compared by the covariance within a window.

comment on column driftd.drift_history.expected_value is
    'Of the rule: what the training data lead to expect, in the question''s own units: a median, an interquartile range, a share, a covariance of normal scores, rows.';
