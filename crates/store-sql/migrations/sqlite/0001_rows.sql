-- One row for each object, whatever its kind. An object of the installation has the empty project, so that
-- lists come in the order of keys.
create table rows (
    kind       text    not null,
    project    text    not null,
    name       text    not null,
    owner      text,
    revision   integer not null,
    meta       text    not null,
    spec       text    not null,
    operations text    not null,
    status     text,
    primary key (kind, project, name)
) strict, without rowid;

create index rows_by_owner on rows (kind, owner) where owner is not null;

-- The revision of the newest write. It also counts deletions, of which no row is left.
create table newest (
    only     integer primary key check (only = 1),
    revision integer not null
) strict;

insert into newest (only, revision) values (1, 0);
