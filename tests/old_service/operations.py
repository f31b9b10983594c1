"""What the old service does with its tables and with Redis: the same statements, in the same transactions."""

import base64
import secrets
import time
from datetime import datetime, timezone

import redis
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import BigInteger, DateTime, ForeignKey, Text, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

SESSION_SECONDS = 604_800
RESET_SECONDS = 900
MAIL_SECONDS_MAX = 10
# Where all of its requests come from.
ADDRESS = "198.51.100.7"


class Refused(Exception):
    """The old service would answer with an error."""


def text(error):
    """An error as one line; the first part says what happened, a statement may follow."""
    return str(error) if isinstance(error, Refused) else " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Base(DeclarativeBase):
    pass


def now():
    return datetime.now(timezone.utc)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    uid: Mapped[str] = mapped_column(Text, unique=True)
    email: Mapped[str] = mapped_column(Text, unique=True)
    phone: Mapped[str | None] = mapped_column(Text, unique=True)
    display_name: Mapped[str | None] = mapped_column(Text)
    is_active: Mapped[bool | None] = mapped_column(default=True)
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), default=now)


class Credential(Base):
    __tablename__ = "credentials"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(Text)
    secret_hash: Mapped[str | None] = mapped_column(Text)
    provider: Mapped[str | None] = mapped_column(Text)
    provider_uid: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), default=now)


class Service:
    def __init__(self, database_url, redis_url, hasher, rehashes=True, pool_size=5):
        scheme, _, rest = database_url.partition("://")
        if scheme not in ["postgres", "postgresql"]:
            raise SystemExit("DATABASE_URL must begin with postgresql://")
        # SQLAlchemy knows one of the two names only.
        engine = create_engine(f"postgresql+psycopg2://{rest}", pool_size=pool_size, max_overflow=0, pool_pre_ping=True)
        self.new_session = sessionmaker(engine, autoflush=False)
        self.redis_url = redis_url
        self.redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self.hasher, self.rehashes = hasher, rehashes

    def register(self, email, password, phone=None, display_name=None, before_commit=None):
        """One transaction, from the first look to the password's row, the hashing included."""
        email, phone = email.strip().lower(), phone or None
        self.count("register", email, 3600)
        with self.new_session() as session:
            if session.scalar(select(User).where(User.email == email)):
                raise Refused("Email already registered")
            if phone and session.scalar(select(User).where(User.phone == phone)):
                raise Refused("Phone already registered")
            user = User(uid=secrets.token_hex(6), email=email, phone=phone, display_name=display_name)
            session.add(user)
            session.flush()
            user_id = user.id
            session.add(Credential(user_id=user_id, type="password", secret_hash=self.hasher.hash(password)))
            if before_commit:
                before_commit(session, user_id)
            session.commit()
        return {"user_id": user_id}

    def login(self, identifier, password):
        """A hash of other parameters is replaced in a second transaction while the first is open."""
        identifier = normal(identifier)
        self.count("login", identifier, 600)
        with self.new_session() as session:
            user = find(session, identifier)
            if user is None:
                raise Refused("Invalid credentials: no such user")
            if not user.is_active:
                raise Refused("Invalid credentials: inactive")
            credential = password_row(session, user.id)
            if credential is None or credential.secret_hash is None:
                raise Refused("Invalid credentials: no password")
            try:
                self.hasher.verify(credential.secret_hash, password)
            except InvalidHashError:
                raise Refused("Invalid credentials: not a hash of Argon2") from None
            except VerificationError:
                raise Refused("Invalid credentials: wrong password") from None
            rehashed = self.rehashes and self.hasher.check_needs_rehash(credential.secret_hash)
            if rehashed:
                self.replace_password(user.id, password)
            user_id = user.id
        sid = secrets.token_urlsafe(32)
        self.redis.set(f"sess:{sid}", str(user_id), ex=SESSION_SECONDS)
        return {"user_id": user_id, "sid": sid, "rehashed": rehashed}

    def me(self, sid):
        user_id = self.redis.get(f"sess:{sid}")
        if user_id is None:
            raise Refused("Unauthorized")
        with self.new_session() as session:
            user = session.get(User, int(user_id))
            if user is None:
                raise Refused("Unauthorized")
            names = ["id", "uid", "email", "phone", "display_name", "is_active"]
            return {"user": {name: getattr(user, name) for name in names}}

    def forgot(self, identifier, mail_seconds=0):
        """Its transaction stays open while the mail is sent. The token is in the answer, or null for an unknown user."""
        identifier = normal(identifier)
        self.count("forgot", identifier, 3600)
        with self.new_session() as session:
            user = find(session, identifier)
            if user is None:
                return {"token": None}
            token = secrets.token_urlsafe(32)
            self.redis.set(f"pwreset:{token}", str(user.id), ex=RESET_SECONDS)
            time.sleep(min(mail_seconds, MAIL_SECONDS_MAX))
            session.commit()
        return {"token": token}

    def reset(self, token, password):
        user_id, _ = self.redis.pipeline().get(f"pwreset:{token}").delete(f"pwreset:{token}").execute()
        if user_id is None:
            raise Refused("Token invalid or expired")
        self.replace_password(int(user_id), password)
        ended = 0
        for key in self.redis.scan_iter(match="sess:*", count=1000):
            if self.redis.get(key) == user_id:
                ended += self.redis.delete(key)
        return {"user_id": int(user_id), "revoked_sessions": ended}

    def flask_session(self, sid=None):
        """Writes a value into a session of Flask-Session and reads it back; with a `sid`, only reads that session's."""
        import flask
        import flask_session

        app = flask.Flask("old_service")
        # Sessions are bytes: its own connection does not decode.
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(self.redis_url))
        flask_session.Session(app)

        @app.post("/")
        def write():
            flask.session["value"] = flask.request.get_data(as_text=True)
            return "", 204

        @app.get("/")
        def read():
            return flask.session.get("value", "")

        cookie = app.config["SESSION_COOKIE_NAME"]
        if sid is None:
            client = app.test_client()
            value = base64.b64encode(secrets.token_bytes(30)).decode()
            client.post("/", data=value)
            sid = client.get_cookie(cookie).value
        else:
            value = None
        # A browser that knows nothing but the cookie.
        client = app.test_client()
        client.set_cookie(cookie, sid)
        found = client.get("/").text
        key = app.session_interface.key_prefix + sid
        return {"key": key, "exists": bool(self.redis.exists(key)), "sid": sid, "value": found, "same": found == value if value else None}

    def replace_password(self, user_id, password):
        """In a transaction of its own; makes the row if there is none."""
        with self.new_session() as session:
            made = self.hasher.hash(password)
            credential = password_row(session, user_id)
            if credential:
                credential.secret_hash = made
            else:
                session.add(Credential(user_id=user_id, type="password", secret_hash=made))
            session.commit()

    def count(self, what, identifier, seconds):
        """The old service's counters: each hit starts the window again. Nothing is refused here."""
        for key in [f"rl:{what}:ip:{ADDRESS}", f"rl:{what}:id:{identifier}"]:
            self.redis.pipeline().incr(key).expire(key, seconds).execute()


def normal(identifier):
    identifier = identifier.strip()
    return identifier.lower() if "@" in identifier else identifier


def find(session, identifier):
    column = User.email if "@" in identifier else User.phone
    return session.scalar(select(User).where(column == identifier))


def password_row(session, user_id):
    return session.scalar(select(Credential).where(Credential.user_id == user_id, Credential.type == "password"))
