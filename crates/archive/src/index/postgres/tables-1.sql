-- Streams of annotations. One that was deleted and created again is another one.
create table groundling.streams (
    id integer generated always as identity primary key,
    name text not null,
    created text not null,
    unique (name, created)
);

-- The sequence up to which a stream was read for a dataset, or for all of them (*).
create table groundling.cursors (
    stream integer not null references groundling.streams,
    datasets text not null,
    sequence bigint not null,
    moved timestamptz not null default now(),
    primary key (stream, datasets)
);

create table groundling.annotations (
    annotation bigint generated always as identity primary key,
    annotation_id text not null unique,
    stream integer not null references groundling.streams,
    sequence bigint not null,
    dataset text not null,
    job_id text not null,
    labels jsonb not null,
    bucket text,
    key text,
    version text,
    etag text,
    sha256 text not null,
    format text not null,
    width bigint not null,
    height bigint not null,
    size_bytes bigint,
    model text not null,
    model_revision text,
    model_digest text not null,
    finished_at timestamptz
);
-- A hash index takes keys of any length.
create index on groundling.annotations using hash (key);

create table groundling.results (
    annotation bigint not null references groundling.annotations on delete cascade,
    result integer not null,
    task text not null,
    prompt text not null,
    text text not null,
    answer text not null,
    finish_reason text,
    prompt_tokens bigint not null,
    generated_tokens bigint not null,
    loss real,
    -- A tsvector holds 1 MB.
    words tsvector not null generated always as (to_tsvector('english', left(text, 100000))) stored,
    primary key (annotation, result)
);
create index on groundling.results using gin (words);

create table groundling.entities (
    annotation bigint not null,
    result integer not null,
    entity integer not null,
    phrase text not null,
    span_start integer,
    span_end integer,
    score real,
    words tsvector not null generated always as (to_tsvector('english', left(phrase, 100000))) stored,
    primary key (annotation, result, entity),
    foreign key (annotation, result) references groundling.results on delete cascade
);
create index on groundling.entities using gin (words);

create table groundling.boxes (
    annotation bigint not null,
    result integer not null,
    entity integer not null,
    number integer not null,
    -- Pixels of the picture. Null if a corner is not finite.
    box box,
    score real,
    primary key (annotation, result, entity, number),
    foreign key (annotation, result, entity) references groundling.entities on delete cascade
);
create index on groundling.boxes using gist (box);

-- Each box with its phrase, text and picture.
create view groundling.grounded_boxes as
select b.annotation, a.annotation_id, a.dataset, a.bucket, a.key, a.width, a.height, r.task, r.text, e.phrase, e.words,
    e.score as phrase_score, b.box, b.score, b.result, b.entity, b.number
from groundling.boxes b
join groundling.entities e using (annotation, result, entity)
join groundling.results r using (annotation, result)
join groundling.annotations a using (annotation);
