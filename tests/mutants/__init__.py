"""Small changes that each break a promise: planted one at a time in a copy of the checkout, where the unit layer must fail."""
