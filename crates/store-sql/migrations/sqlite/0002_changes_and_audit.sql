-- Which objects were written lately, in commit order: what a watch resumes from, after a restart too. The newest content
-- of an object is in its row. What: 0 changed, 1 deleted, 2 created.
create table changes (
    revision integer primary key,
    kind     text    not null,
    project  text    not null,
    name     text    not null,
    uid      text    not null,
    what     integer not null
) strict;

-- Who changed what. Each hash covers all entries up to its own.
create table audit (
    number  integer primary key,
    project text    not null,
    entry   text    not null,
    hash    text    not null
) strict;
