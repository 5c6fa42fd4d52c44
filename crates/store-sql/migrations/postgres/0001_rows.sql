-- One row for each object, whatever its kind. An object of the installation has the empty project, so that
-- lists come in the order of keys, which are compared byte by byte.
create table rows (
    kind       text collate "C" not null,
    project    text collate "C" not null,
    name       text collate "C" not null,
    owner      text,
    revision   bigint not null,
    meta       text   not null,
    spec       text   not null,
    operations text   not null,
    status     text,
    primary key (kind, project, name)
);

create index rows_by_owner on rows (kind, owner) where owner is not null;

-- The revision of the newest write. It also counts deletions, of which no row is left. Whoever writes locks it first, so
-- that writes are committed in the order of their revisions.
create table newest (
    one      bigint primary key check (one = 1),
    revision bigint not null
);

insert into newest (one, revision) values (1, 0);

-- Which objects were written lately, in commit order: what watches follow. The newest content of an object is in its row.
-- What: 0 changed, 1 deleted, 2 created.
create table changes (
    revision bigint primary key,
    kind     text   not null,
    project  text   not null,
    name     text   not null,
    uid      text   not null,
    what     bigint not null
);

-- Who changed what. Each hash covers all entries up to its own.
create table audit (
    number  bigint primary key,
    project text   not null,
    entry   text   not null,
    hash    text   not null
);

-- The installation whose store this is.
create table installation (
    one bigint primary key check (one = 1),
    id   text   not null
);
