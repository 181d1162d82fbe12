-- The shop's own tables, beside those of the store.

CREATE TABLE orders (
    order_id INTEGER NOT NULL PRIMARY KEY,
    amount INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;

CREATE TABLE daily_reports (
    day TEXT NOT NULL PRIMARY KEY,
    shipped INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
